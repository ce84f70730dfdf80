/// Loading and attaching of programs, and the account of what could not be.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "handles.h"
#include "json.h"
#include "maps.h"
#include "subjects.h"

namespace shoal::tracer {

/// What the first line of the output says.
class Report {
 public:
  void attached(const std::string& program, const std::string& how = "attached") {
    programs_[program] = how;
    ++attached_;
  }
  /// `subject` is lost, in part at least, because `program` could not be had.
  void refused(const std::string& program, const Subject& subject, int code,
               const std::string& why);

  [[nodiscard]] bool nothing_attached() const noexcept { return attached_ == 0; }
  [[nodiscard]] Json hello() const;

 private:
  Json programs_ = Json::object();
  Json missing_ = Json::array();
  int attached_ = 0;
};

/// The first warning of libbpf since the last call, for the text of an error: those after it are
/// consequences.
void keep_warnings();
std::string take_warning();

/// The name a person knows a program by: of "tp_btf/sched_switch" the second part, else its own.
std::string name_of(const bpf_program* program);

/// Attaches what attaches by itself (tracepoints); each failure is reported, the rest goes on.
std::vector<Link> attach_all(bpf_object* object, const Subject& subject, Report& report);

/// Opens and loads a set of programs; null, and reported, if that is refused.
template <class S>
Skeleton<S> load(const SharedMaps& maps, const Subject& subject, Report& report) {
  take_warning();
  Skeleton<S> skeleton(S::open());
  if (skeleton == nullptr) {
    report.refused(subject.what, subject, errno, take_warning());
    return nullptr;
  }
  maps.give_to(skeleton->obj);
  const int result = S::load(skeleton.get());
  if (result == 0) return skeleton;
  const std::string why = take_warning();
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) {
    report.refused(name_of(program), subject, -result, why);
  }
  return nullptr;
}

/// A set of programs that need nothing but to be loaded and attached.
template <class S>
class Attached {
 public:
  Attached(const SharedMaps& maps, const Subject& subject, Report& report)
      : programs_(load<S>(maps, subject, report)) {
    if (programs_ != nullptr) links_ = attach_all(programs_->obj, subject, report);
  }
  explicit operator bool() const noexcept { return programs_ != nullptr; }
  S* operator->() const noexcept { return programs_.get(); }

 private:
  Skeleton<S> programs_;
  std::vector<Link> links_;  // go before the programs do
};

}  // namespace shoal::tracer
