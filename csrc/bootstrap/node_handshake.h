/// Which ranks share this node: found by handing a file descriptor over, not by believing names.
///
/// 1. All ranks exchange cards: boot id, network and pid namespace, user, and the random name of an
///    abstract unix socket each of them listens on. Equal boot id, network namespace and user make
///    candidates.
/// 2. Their lowest rank makes the fd. It travels (SCM_RIGHTS) down a binomial tree of them, from
///    each to at most log2 n others: to those that connect, run under the same user id
///    (SO_PEERCRED, both ways) and prove that they know the secret.
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
  Traffic traffic;                      ///< over the unix sockets
};

/// Throws what `create` throws, after the other ranks have been told; else as all_gather().
NodeOutcome shake_hands(Rank rank, Exchange& exchange, const Credentials& credentials,
                        const std::function<Fd(int local_ranks)>& create, Deadline deadline);

}  // namespace shoal::bootstrap
