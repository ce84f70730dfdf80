/// Which ranks share this node: found by handing a file descriptor over, not by believing names.
///
/// 1. All ranks exchange cards: boot id, network and pid namespace, user, and the random name of an
///    abstract unix socket each of them listens on. Equal boot id and network namespace make
///    candidates; their lowest rank is the leader.
/// 2. The leader makes the fd and gives it (SCM_RIGHTS) to each candidate that connects, runs under
///    the leader's user id (SO_PEERCRED, both ways) and proves that it knows the secret.
/// 3. All ranks exchange what came of it. Who got no fd is a node of its own.
#pragma once

#include <functional>
#include <vector>

#include "bootstrap/control.h"
#include "bootstrap/exchange.h"

namespace shoal::bootstrap {

struct NodeOutcome {
  Fd fd;
  std::vector<Peer> peers;
  std::vector<LocalProcess> processes;  ///< ranks of this node in other processes
};

/// Throws what `create` throws, after the other ranks have been told; else as all_gather().
NodeOutcome shake_hands(Rank rank, Exchange& exchange, const Credentials& credentials,
                        const std::function<Fd(int local_ranks)>& create, Deadline deadline);

}  // namespace shoal::bootstrap
