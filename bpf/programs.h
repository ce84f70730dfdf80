/// Loading and attaching of programs, and the account of what could not be.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "handles.h"
#include "json.h"
#include "maps.h"

namespace shoal::tracer {

/// What the first line of the output says.
class Report {
 public:
  void attached(const std::string& program, const std::string& how = "attached") {
    programs_[program] = how;
    ++attached_;
  }
  /// `what` is lost, to a person's eyes, because `program` could not be had.
  void refused(const std::string& program, const std::string& what, int code,
               const std::string& why);

  [[nodiscard]] bool nothing_attached() const noexcept { return attached_ == 0; }
  [[nodiscard]] Json hello() const;

 private:
  Json programs_ = Json::object();
  Json missing_ = Json::array();
  int attached_ = 0;
};

/// The last warning of libbpf, for the text of an error; there is nothing to say if all went well.
void keep_warnings();
std::string last_warning();

/// The name a person knows a program by: of "tp_btf/sched_switch" the second part.
std::string name_of(const bpf_program* program);

/// Attaches what attaches by itself (tracepoints); each failure is reported, the rest goes on.
std::vector<Link> attach_all(bpf_object* object, const std::string& what, Report& report);

/// Opens and loads a set of programs; null, and reported, if that is refused.
template <class S>
Skeleton<S> load(const SharedMaps& maps, const std::string& what, Report& report) {
  Skeleton<S> skeleton(S::open());
  if (skeleton == nullptr) {
    report.refused(what, what, errno, last_warning());
    return nullptr;
  }
  maps.give_to(skeleton->obj);
  const int result = S::load(skeleton.get());
  if (result == 0) return skeleton;
  const std::string why = last_warning();
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) {
    report.refused(name_of(program), what, -result, why);
  }
  return nullptr;
}

/// A set of programs that need nothing but to be loaded and attached.
template <class S>
class Attached {
 public:
  Attached(const SharedMaps& maps, const std::string& what, Report& report)
      : programs_(load<S>(maps, what, report)) {
    if (programs_ != nullptr) links_ = attach_all(programs_->obj, what, report);
  }
  explicit operator bool() const noexcept { return programs_ != nullptr; }
  S* operator->() const noexcept { return programs_.get(); }

 private:
  Skeleton<S> programs_;
  std::vector<Link> links_;  // go before the programs do
};

}  // namespace shoal::tracer
