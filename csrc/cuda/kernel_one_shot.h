/// Small operations of ranks whose kernels run side by side: each stores what the others need of
/// its input into their inboxes (workspace.h), as packets that carry their flag, awaits what it
/// needs itself in its own, and writes its own output. One round: nobody reads another's buffers,
/// so nobody has to say that he is done.
///
/// The reference schedule is `direct`, as of the kernels that read the others' buffers
/// (kernel_body.h): elements are combined in rank order, by the same code, with the same bits.
#pragma once

#include "cuda/kernel_body.h"

namespace shoal::cuda::kernels {

/// Rank `from` has something for rank `to` besides the header.
SHOAL_BOTH bool carries(const KernelParameters& p, int from, int to) {
  switch (static_cast<Collective>(p.collective)) {
    case Collective::kReduce:
    case Collective::kGather:
      return to == p.root;
    case Collective::kBroadcast:
    case Collective::kScatter:
      return from == p.root;
    case Collective::kBarrier:
      return false;
    default:
      return true;
  }
}

/// Where in its input a rank finds what is for `to`.
SHOAL_BOTH int64_t input_offset(const KernelParameters& p, int64_t bytes, int to) {
  const auto collective = static_cast<Collective>(p.collective);
  const bool has_blocks = collective == Collective::kReduceScatter ||
                          collective == Collective::kScatter || collective == Collective::kAllToAll;
  return has_blocks ? to * bytes : 0;
}

/// Where in its output a rank stores what is of `from`.
SHOAL_BOTH int64_t output_offset(const KernelParameters& p, int64_t bytes, int from) {
  const auto collective = static_cast<Collective>(p.collective);
  const bool has_blocks = collective == Collective::kAllGather ||
                          collective == Collective::kGather || collective == Collective::kAllToAll;
  return has_blocks ? from * bytes : 0;
}

/// 8 bytes of a buffer, or what it has left of them.
SHOAL_BOTH uint64_t load_data(const char* from, int64_t left) {
  uint64_t data = 0;
  if (left >= 8 && (reinterpret_cast<uintptr_t>(from) & 7) == 0) {
    return *reinterpret_cast<const uint64_t*>(from);
  }
  for (int b = 0; b < 8 && b < left; ++b) {
    data |= static_cast<uint64_t>(static_cast<unsigned char>(from[b])) << (8 * b);
  }
  return data;
}

SHOAL_BOTH void store_data(char* to, int64_t left, uint64_t data) {
  if (left >= 8 && (reinterpret_cast<uintptr_t>(to) & 7) == 0) {
    *reinterpret_cast<uint64_t*>(to) = data;
    return;
  }
  for (int b = 0; b < 8 && b < left; ++b) to[b] = static_cast<char>(data >> (8 * b));
}

/// A message of `bytes` bytes to every rank: the threads that send a packet are those that await
/// it.
struct Messages {
  int64_t bytes, packets;
  Share share;
};

SHOAL_BOTH void send_messages(const KernelParameters& p, const Messages& m) {
  const auto* const input = static_cast<const char*>(p.spin.input);
  for (int k = 1; k < p.ranks; ++k) {
    const int r = (p.self + k) % p.ranks;  // not all to one at once
    if (!carries(p, p.self, r)) continue;
    Packet* const area = area_of(p, r, p.self);
    const char* const from = input + input_offset(p, m.bytes, r);
    for (int64_t i = m.share.index; i < m.packets; i += m.share.count) {
      store_packet(at<Packet>(reinterpret_cast<uintptr_t>(area), WorkspaceLayout::packet(i)),
                   load_data(from + 8 * i, m.bytes - 8 * i), flag_of(p.spin.value));
    }
  }
}

/// Packet i of what rank `from` has for this one.
SHOAL_BOTH const Packet* packet_from(const KernelParameters& p, int from, int64_t i) {
  return at<Packet>(reinterpret_cast<uintptr_t>(inbox_of(p, from)), WorkspaceLayout::packet(i));
}

/// Packets under way to a thread at once.
inline constexpr int kPacketsAhead = 4;

/// Packet i of all ranks' inputs, combined. False: one of them will never come.
template <class Format, class Op>
SHOAL_BOTH bool combine_packets(const KernelParameters& p, const Messages& m, int64_t i,
                                uint64_t& result) {
  using Value = typename Format::Value;
  struct Parts {
    typename Format::Lane of[8 / sizeof(typename Format::Lane)];
  };
  constexpr int kParts = int(sizeof(Parts) / sizeof(typename Format::Lane));
  const char* const own =
      static_cast<const char*>(p.spin.input) + input_offset(p, m.bytes, p.self) + 8 * i;
  Value sums[kParts]{};
  for (int first = 0; first < p.ranks; first += kPacketsAhead) {
    Packet packets[kPacketsAhead]{};
    SHOAL_UNROLL
    for (int k = 0; k < kPacketsAhead; ++k) {
      const int r = first + k;
      if (r < p.ranks && r != p.self) packets[k] = load_packet(packet_from(p, r, i));
    }
    SHOAL_UNROLL
    for (int k = 0; k < kPacketsAhead; ++k) {
      const int r = first + k;
      if (r >= p.ranks) break;
      if (r != p.self &&
          !await_packet(packet_from(p, r, i), flag_of(p.spin.value), p.abort, packets[k])) {
        return false;
      }
      const uint64_t data = r == p.self ? load_data(own, m.bytes - 8 * i) : data_of(packets[k]);
      const auto parts = bits_of<Parts>(data);
      SHOAL_UNROLL
      for (int l = 0; l < kParts; ++l) {
        const auto value = static_cast<Value>(Format::widen(parts.of[l]));
        sums[l] = r == 0 ? value : Op::apply(sums[l], value);
      }
    }
  }
  Parts parts;
  SHOAL_UNROLL
  for (int l = 0; l < kParts; ++l) {
    parts.of[l] = static_cast<typename Format::Lane>(Format::narrow(scaled(sums[l], p.scale)));
  }
  result = bits_of<uint64_t>(parts);
  return true;
}

template <class Format, class Op>
SHOAL_BOTH void combine_messages(const KernelParameters& p, const Messages& m) {
  if (!carries(p, p.self, p.self)) return;
  for (int64_t i = m.share.index; i < m.packets; i += m.share.count) {
    uint64_t result = 0;
    if (!combine_packets<Format, Op>(p, m, i, result)) return;
    store_data(static_cast<char*>(p.spin.output) + 8 * i, m.bytes - 8 * i, result);
  }
}

SHOAL_BOTH void move_messages(const KernelParameters& p, const Messages& m) {
  for (int k = 0; k < p.ranks; ++k) {
    const int r = (p.self + k) % p.ranks;
    if (!carries(p, r, p.self)) continue;
    const char* const own = static_cast<const char*>(p.spin.input) + input_offset(p, m.bytes, r);
    char* const to = static_cast<char*>(p.spin.output) + output_offset(p, m.bytes, r);
    if (r == p.self && to == own) continue;
    for (int64_t i = m.share.index; i < m.packets; i += m.share.count) {
      Packet packet{};
      if (r != p.self &&
          !await_packet(packet_from(p, r, i), flag_of(p.spin.value), p.abort, packet)) {
        return;
      }
      const int64_t left = m.bytes - 8 * i;
      store_data(to + 8 * i, left, r == p.self ? load_data(own + 8 * i, left) : data_of(packet));
    }
  }
}

/// One launch. Nothing is written before all headers are there and fit.
template <class Format, class Op, class Team>
SHOAL_BOTH void run_one_shot(const KernelParameters& p, const Team& team) {
  const int64_t bytes = p.count * int64_t{sizeof(typename Format::Element)};
  const Messages m{bytes,
                   (bytes + 7) / 8,
                   {team.block() * int64_t{team.threads()} + team.thread(),
                    int64_t{team.blocks()} * team.threads()}};
  if (team.block() == 0) {
    if (team.thread() == 0) show_flag(p.spin.ready, p.spin.value);
    for (int r = team.thread(); r < p.ranks; r += team.threads()) {
      if (r != p.self) send_tag(p, area_of(p, r, p.self));
    }
  }
  send_messages(p, m);
  bool fits = team.thread() != team.threads() - 1 || !has_ended(p);
  int other = -1;
  for (int r = team.thread(); r < p.ranks; r += team.threads()) {
    if (r == p.self) continue;
    const Answer answer = receive_tag(p, r);
    fits = fits && answer == Answer::kSame;
    if (answer == Answer::kOther) other = r;
  }
  const bool all_fit = team.all(fits);
  if (other >= 0) complain(p, other);
  if (all_fit) {
    if (reduces(static_cast<Collective>(p.collective))) {
      combine_messages<Format, Op>(p, m);
    } else {
      move_messages(p, m);
    }
  }
  if (!is_last(p, team)) return;
  show_flag(p.spin.done, p.spin.value);
  if (p.spin.completed != nullptr) show_flag(p.spin.completed, p.spin.value);
}

}  // namespace shoal::cuda::kernels
