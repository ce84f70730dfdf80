#include "signals.h"

#include <csignal>
#include <cstring>

namespace shoal::tracer {
namespace {

std::string name_of_signal(int signal) {
  if (const char* name = sigabbrev_np(signal)) return std::string("SIG") + name;
  return "SIG" + std::to_string(signal);  // real-time signals have numbers only
}

// TRACE_SIGNAL_* of the kernel.
const char* name_of_result(int result) {
  switch (result) {
    case 0:
      return "delivered";
    case 1:
      return "ignored";
    case 2:
      return "pending already";
    default:
      return "queue full";
  }
}

}  // namespace

Json describe(const signal_event& event) {
  return {{"type", "signal"},
          {"t_ns", event.head.time_ns},
          {"pid", event.head.pid},
          {"tid", event.head.tid},
          {"signal", event.signal},
          {"name", name_of_signal(event.signal)},
          {"code", event.code},
          {"result", name_of_result(event.result)},
          {"sender_pid", event.sender_pid},
          {"sender_tid", event.sender_tid},
          {"sender_comm", std::string(event.sender_name, strnlen(event.sender_name, kNameBytes))}};
}

}  // namespace shoal::tracer
