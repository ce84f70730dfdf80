#include "programs.h"

#include <sys/utsname.h>

#include <cstdarg>
#include <cstdio>
#include <utility>

#include "privilege.h"

namespace shoal::tracer {
namespace {

thread_local std::string warning;

int keep(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN || !warning.empty()) return 0;
  char text[512];
  const int length = std::vsnprintf(text, sizeof text, format, arguments);
  warning.assign(text, static_cast<size_t>(std::min<int>(std::max(length, 0), sizeof text - 1)));
  while (!warning.empty() && warning.back() == '\n') warning.pop_back();
  return length;
}

}  // namespace

void keep_warnings() { libbpf_set_print(keep); }
std::string take_warning() { return std::exchange(warning, {}); }

std::string name_of(const bpf_program* program) {
  const std::string section = bpf_program__section_name(program);
  const size_t slash = section.find('/');
  return slash == std::string::npos ? bpf_program__name(program) : section.substr(slash + 1);
}

void Report::refused(const std::string& program, const Subject& subject, int code,
                     const std::string& why) {
  const std::string words = why.empty() ? std::strerror(code) : why;
  programs_[program] = words;
  for (const Json& known : missing_) {
    if (known["what"] == subject.what) return;
  }
  const Remedy remedy = remedy_for(code, subject.capabilities);
  missing_.push_back({{"what", subject.what},
                      {"why", remedy.why.empty() ? words : remedy.why},
                      {"do", remedy.action},
                      {"without", subject.without}});
}

Json Report::hello() const {
  utsname system{};
  uname(&system);
  return {{"type", "hello"},
          {"kernel", system.release},
          {"programs", programs_},
          {"missing", missing_}};
}

std::vector<Link> attach_all(bpf_object* object, const Subject& subject, Report& report) {
  std::vector<Link> links;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    take_warning();
    Link link(bpf_program__attach(program));
    if (link != nullptr) {
      report.attached(name_of(program));
      links.push_back(std::move(link));
    } else {
      report.refused(name_of(program), subject, errno, take_warning());
    }
  }
  return links;
}

}  // namespace shoal::tracer
