/// One Network out of several, one for each RDMA device (a rail): small messages go over one of
/// them, large ones over all, in proportion to what each carries. A rail that dies, or is silent
/// while the others are not, is dropped for that peer and named, and what was under way on it goes
/// over the others; when all have died, so has the peer. One that answers again is used again, if
/// its network has not given the peer up. See link.h for how, docs/decisions/0008-multi-rail.md for
/// why.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory/registrar.h"
#include "shoal/export.h"
#include "transport/network.h"
#include "transport/rail/timing.h"

namespace shoal::transport::rail {

struct Rail {
  std::string name;  ///< for people: "mlx5_0:1"
  std::unique_ptr<Network> network;
  double gbits = 0;                        ///< that the port promises; 0: unknown
  memory::Registrar* registrar = nullptr;  ///< the network's, if it wants to know memory
};

/// Rail i of every rank reaches rail i of every other. The address is that of all; of a peer that
/// has another number of rails none can be set.
///
/// What a send has copied is kept until the peer has it, but not beyond the end of this transport:
/// who closes it just after a send relies on the rail that the message is on.
/// Memory is registered with all rails at once; the handle is of all of them, and handle_of() gives
/// each its own.
class RailNetwork : public Network, public memory::Registrar {
 public:
  /// nullptr: of a registration that was refused, too.
  [[nodiscard]] SHOAL_API static void* handle_of(void* registration, int rail) noexcept;
  /// Bytes a nanosecond that were measured of what the peer has sent over a rail.
  [[nodiscard]] virtual double rate(int peer, int rail) const noexcept = 0;
};

/// `rails`: 2 to kMaxRails, each made for the same `self` and `peers`.
std::unique_ptr<RailNetwork> make_rail_network(std::vector<Rail> rails, int peers,
                                               Timing timing = {});

}  // namespace shoal::transport::rail
