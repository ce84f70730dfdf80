/// Where the ranks of a communicator meet: what ncclGetUniqueId() puts into its 128 bytes.
#pragma once

#include <string>

#include "nccl/drop_in/api.h"

namespace shoal::nccl {

/// The address of a rendezvous store, and the secret that admits to it. Whoever has the bytes may
/// join; they are to be handed round as NCCL's are.
struct MeetingPlace {
  std::string store;   ///< "host:port"
  std::string secret;  ///< random bytes
};

/// A new one. This process listens there from now on, and serves the store once rank 0, which must
/// be in this process, asks for take_listener(). Throws Error(kSystem).
ncclUniqueId make_unique_id();
/// Throws Error(kInvalidArgument): it was not made by make_unique_id().
MeetingPlace read_unique_id(const ncclUniqueId& id);
/// The socket that listens at the place, handed over; -1: it is another process's, or taken.
int take_listener(const MeetingPlace& place) noexcept;

}  // namespace shoal::nccl
