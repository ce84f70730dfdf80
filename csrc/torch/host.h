/// Where this process runs, as far as the others of its job have to know.
#pragma once

#include <string>

namespace shoal::torch {

/// The same for all processes that reach one another over the loopback interface: boot and network
/// namespace.
std::string machine_id();

/// An address of this host that the other hosts of the job can reach: SHOAL_HOST if that is set,
/// else the one this host uses towards `rendezvous`, where torch's store runs; where that is this
/// host itself, by the name the others know it by. `rendezvous` empty: the host's name.
std::string own_address(const std::string& rendezvous);

/// 256 random bits, in hex.
std::string random_secret();

}  // namespace shoal::torch
