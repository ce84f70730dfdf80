#include "schedule/dump.h"

#include <array>
#include <cstdio>

namespace shoal::schedule {
namespace {

// A listing is for reading; what is longer than this is cut, and says so.
constexpr int kMaxLines = 100'000;

template <class... Args>
std::string format(const char* pattern, Args... args) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, args...);
  return text.data();
}

/// "output[0..16)", "rank 3 output[0..16)", "every output[0..16)".
std::string text_of(const Ref& ref) {
  constexpr std::array<const char*, 3> kSpaces = {"input", "output", "scratch"};
  std::string owner;
  if (ref.rank == kEvery) owner = "every ";
  if (ref.rank >= 0) owner = format("rank %d ", ref.rank);
  if (ref.count == 0) return owner + "nothing";
  return owner + format("%s[%lld..%lld)", kSpaces[static_cast<std::size_t>(ref.space)],
                        static_cast<long long>(ref.offset),
                        static_cast<long long>(ref.offset + ref.count));
}

std::string line(const char* verb, const std::string& peer, const std::string& what,
                 const std::string& note = {}) {
  std::string text = format("%-7s %-7s %-44s", verb, peer.c_str(), what.c_str()) + note;
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

std::string blocks_of(const Step& step) {
  std::string text = text_of(step.src);
  if (step.own_input) return text + ", own " + text_of(step.own_block());
  if (step.blocks > 1 && step.src.rank != kEvery) {
    text += format(" x %d, stride %lld", step.blocks, static_cast<long long>(step.stride));
  }
  return text;
}

std::string heading(Algorithm algorithm, const Shape& shape) {
  std::string text =
      format("%s %s: %d ranks", std::string(shoal::name_of(shape.collective)).c_str(),
             std::string(name_of(algorithm)).c_str(), shape.ranks);
  if (1 < shape.node_ranks) text += format(", %d a node", shape.node_ranks);
  if (has_root(shape.collective)) text += format(", root %d", shape.root);
  return text + format(", count %lld", static_cast<long long>(shape.count));
}

/// "rank 3 (scratch 32)" and the rank's steps, numbered.
std::string listing(Algorithm algorithm, const Shape& shape) {
  std::string text = format("rank %d", shape.rank);
  const std::int64_t scratch = scratch_count(algorithm, shape);
  if (scratch > 0) text += format("  (scratch %lld)", static_cast<long long>(scratch));
  text += '\n';
  Schedule schedule(algorithm, shape);
  for (int number = 0; number < kMaxLines; ++number) {
    const Step step = schedule.next();
    text += format("%4d  ", number) + describe(step) + '\n';
    if (step.kind == StepKind::kEnd) return text;
  }
  return text + format("      ... cut after %d steps\n", kMaxLines);
}

}  // namespace

std::string describe(const Step& step) {
  const std::string to = text_of(step.dst), from = text_of(step.src);
  const std::string finish = step.finish ? "  finish" : "";
  const std::string also = step.own_output ? ", " + text_of(step.own_result()) : "";
  switch (step.kind) {
    case StepKind::kEnd:
      return "end";
    case StepKind::kSend:
      return line("send", format("-> %d", step.peer), from, format("  slot %d", step.slot));
    case StepKind::kRecv:
      return line("recv", format("<- %d", step.peer), to, format("  slot %d", step.slot));
    case StepKind::kOffer:
      return line("offer", format("-> %d", step.peer), "scratch", format("  slot %d", step.slot));
    case StepKind::kAccept:
      return line("accept", format("<- %d", step.peer), "", format("  slot %d", step.slot));
    case StepKind::kPut:
      return line("put", format("-> %d", step.peer), to + " = " + from,
                  format("  slot %d", step.slot));
    case StepKind::kLand:
      return line("land", format("<- %d", step.peer), to, format("  slot %d", step.slot));
    case StepKind::kWait:
      return line("wait", "", "", format("  slot %d", step.slot));
    case StepKind::kWaitAll:
      return line("wait", "all", "");
    case StepKind::kCopy:
      return line("copy", "", to + " = " + from);
    case StepKind::kReduce:
      return line("reduce", "", to + " op= " + from, finish);
    case StepKind::kCombine:
      return line("combine", "", to + " = " + from + " op " + text_of(step.addend()), finish);
    case StepKind::kFold:
      return line("fold", "", to + also + " = " + blocks_of(step), finish);
    case StepKind::kPost:
      return line("post", "", "");
    case StepKind::kAwait:
      return line("await", step.peer == kEvery ? "every" : format("<- %d", step.peer), "");
  }
  return {};
}

std::string dump(Algorithm algorithm, const Shape& shape) {
  return heading(algorithm, shape) + '\n' + listing(algorithm, shape);
}

std::string dump_all(Algorithm algorithm, const Shape& shape) {
  std::string text = heading(algorithm, shape) + '\n';
  if (const Entry* entry = find(shape.collective, algorithm)) {
    text +=
        "cost    " + std::string(entry->cost) + "\nsource  " + std::string(entry->source) + '\n';
  }
  Shape at = shape;
  for (at.rank = 0; at.rank < shape.ranks; ++at.rank) text += '\n' + listing(algorithm, at);
  return text;
}

}  // namespace shoal::schedule
