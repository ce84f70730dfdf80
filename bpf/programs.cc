#include "programs.h"

#include <sys/utsname.h>

#include <cstdarg>
#include <cstdio>

#include "privilege.h"

namespace shoal::tracer {
namespace {

thread_local std::string warning;

int keep(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) return 0;
  char text[512];
  const int length = std::vsnprintf(text, sizeof text, format, arguments);
  warning.assign(text, static_cast<size_t>(std::min<int>(std::max(length, 0), sizeof text - 1)));
  while (!warning.empty() && warning.back() == '\n') warning.pop_back();
  return length;
}

}  // namespace

void keep_warnings() { libbpf_set_print(keep); }
std::string last_warning() { return warning; }

std::string name_of(const bpf_program* program) {
  const std::string section = bpf_program__section_name(program);
  return section.substr(section.find_last_of("/:") + 1);
}

void Report::refused(const std::string& program, const std::string& what, int code,
                     const std::string& why) {
  programs_[program] = why.empty() ? std::strerror(code) : why;
  for (const Json& known : missing_) {
    if (known["what"] == what) return;
  }
  const Remedy remedy = remedy_for(code);
  missing_.push_back(
      {{"what", what},
       {"why", remedy.why.empty() ? programs_[program].get<std::string>() : remedy.why},
       {"do", remedy.action}});
}

Json Report::hello() const {
  utsname system{};
  uname(&system);
  return {{"type", "hello"},
          {"kernel", system.release},
          {"programs", programs_},
          {"missing", missing_}};
}

std::vector<Link> attach_all(bpf_object* object, const std::string& what, Report& report) {
  std::vector<Link> links;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    Link link(bpf_program__attach(program));
    if (link != nullptr) {
      report.attached(name_of(program));
      links.push_back(std::move(link));
    } else {
      report.refused(name_of(program), what, errno, last_warning());
    }
  }
  return links;
}

}  // namespace shoal::tracer
