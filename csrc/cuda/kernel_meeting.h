/// How kernels that run side by side find one another, say which operation they are, and part:
/// through their workspaces (workspace.h), in device memory. Each tells every other one by a header
/// what it was called with, whatever it is to do, so that calls of any two kinds that do not fit
/// are seen by both sides.
///
/// Nothing waits for the host's memory, but for the abort word after many looks.
#pragma once

#include "cuda/kernel_parameters.h"
#include "cuda/kernel_words.h"
#include "cuda/workspace.h"

namespace shoal::cuda::kernels {

struct Buffers {
  char *input, *output;
};

template <class T>
SHOAL_BOTH T* at(uint64_t address, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address) + static_cast<uintptr_t>(offset));
}

/// When all ranks have been heard, so that their hosts can tell who called what.
SHOAL_BOTH void complain(const KernelParameters& p, int rank) {
  store_complaint(p.complaint, complaint_of(p.sequence, rank));
}

/// In the workspace of a rank.
template <class T>
SHOAL_BOTH T* in_workspace(const KernelParameters& p, int rank, int64_t offset) {
  return at<T>(p.spin.workspaces[rank], offset);
}

/// This rank's host has said that the communicator has ended.
SHOAL_BOTH bool has_ended(const KernelParameters& p) {
  return load_flag(in_workspace<uint32_t>(p, p.self, WorkspaceLayout::ended())) != 0;
}

/// The area of `from` in the workspace of `to`.
SHOAL_BOTH Packet* area_of(const KernelParameters& p, int to, int from) {
  return in_workspace<Packet>(p, to, WorkspaceLayout(p.ranks).area(p.spin.value, from));
}

SHOAL_BOTH const Packet* inbox_of(const KernelParameters& p, int from) {
  return area_of(p, p.self, from);
}

// ---- headers: a tag; then addresses, for those who need them

SHOAL_BOTH void send_tag(const KernelParameters& p, Packet* area) {
  store_packet(area, tag_of(p.sequence, p.fingerprint), flag_of(p.spin.value));
}

/// What a rank has called: the same as this one, something else, or nothing before the end.
enum class Answer : int32_t { kSame, kOther, kNone };

SHOAL_BOTH Answer receive_tag(const KernelParameters& p, int rank) {
  Packet tag{};
  if (!await_packet(inbox_of(p, rank), flag_of(p.spin.value), p.abort, tag)) return Answer::kNone;
  return data_of(tag) == tag_of(p.sequence, p.fingerprint) ? Answer::kSame : Answer::kOther;
}

SHOAL_BOTH void send_header(const KernelParameters& p, Packet* area) {
  const uint32_t flag = flag_of(p.spin.value);
  send_tag(p, area);
  store_packet(area + 1, reinterpret_cast<uintptr_t>(p.spin.input), flag);
  store_packet(area + 2, reinterpret_cast<uintptr_t>(p.spin.output), flag);
}

/// A rank that has called something else need not send addresses.
SHOAL_BOTH Answer receive_header(const KernelParameters& p, int rank, Buffers& buffers) {
  if (rank == p.self) {
    buffers = {static_cast<char*>(const_cast<void*>(p.spin.input)),
               static_cast<char*>(p.spin.output)};
    return Answer::kSame;
  }
  if (const Answer answer = receive_tag(p, rank); answer != Answer::kSame) return answer;
  const Packet* const inbox = inbox_of(p, rank);
  const uint32_t flag = flag_of(p.spin.value);
  Packet input{}, output{};
  if (!await_packet(inbox + 1, flag, p.abort, input)) return Answer::kNone;
  if (!await_packet(inbox + 2, flag, p.abort, output)) return Answer::kNone;
  buffers = {at<char>(data_of(input), 0), at<char>(data_of(output), 0)};
  return Answer::kSame;
}

// ---- a kernel that reads and writes the others' buffers

/// This rank's input is there, its output free. By all threads.
template <class Team>
SHOAL_BOTH void arrive(const KernelParameters& p, const Team& team) {
  if (team.block() != 0) return;
  if (team.thread() == 0) show_flag(p.spin.ready, p.spin.value);
  team.publish();  // what kernels before this one have stored, to processors elsewhere
  for (int r = team.thread(); r < p.ranks; r += team.threads()) {
    if (r != p.self) send_header(p, area_of(p, r, p.self));
  }
}

/// Counts the blocks that are over: true for the last one's leader, and when it is seen, whatever
/// the others have stored is.
template <class Team>
SHOAL_BOTH bool is_last(const KernelParameters& p, const Team& team) {
  team.meet();
  if (team.thread() != 0) return false;
  team.publish();
  if (team.blocks() == 1) return true;
  uint32_t* const finished = in_workspace<uint32_t>(p, p.self, WorkspaceLayout::finished());
  if (add_one(finished) + 1 != static_cast<uint32_t>(team.blocks())) return false;
  *finished = 0;
  team.publish();
  return true;
}

/// When all ranks' kernels are over, this rank's buffers are its own again.
template <class Team>
SHOAL_BOTH void leave_together(const KernelParameters& p, const Team& team) {
  if (!is_last(p, team)) return;
  const uint32_t flag = flag_of(p.spin.value);
  show_flag(p.spin.done, p.spin.value);
  for (int r = 0; r < p.ranks; ++r) {
    if (r != p.self) {
      store_flag(in_workspace<uint32_t>(p, r, WorkspaceLayout::done(p.self)), flag);
    }
  }
  for (int r = 0; r < p.ranks; ++r) {
    const uint32_t* const theirs = in_workspace<uint32_t>(p, p.self, WorkspaceLayout::done(r));
    if (r != p.self) (void)await_flag(theirs, flag, p.abort);
  }
  if (p.spin.completed != nullptr) store_flag(p.spin.completed, p.spin.value);
}

}  // namespace shoal::cuda::kernels
