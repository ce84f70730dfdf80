/// Who am I, of how many, and where is the store.
#pragma once

#include <cstdint>
#include <string>

#include "shoal/types.h"

namespace shoal::bootstrap {

struct Identity {
  Rank rank = 0;
  Rank ranks = 1;
  std::string job;         ///< same on all ranks; names the job in logs and `shoal ps`
  std::string store_host;  ///< empty: no store known (one rank needs none)
  std::uint16_t store_port = 0;
  std::string secret;      ///< never on a command line, never in a message
  bool serves_store = false;  ///< rank 0 starts the store itself (no launcher has)
  std::string source;      ///< "shoal run", "torchrun", "slurm", "openmpi", "arguments", "alone"
};

/// Reads what the launcher left in the environment: `shoal run` (SHOAL_RANK, SHOAL_WORLD_SIZE,
/// SHOAL_STORE host:port, SHOAL_JOB, and the secret from SHOAL_SECRET_FD (a pipe) or SHOAL_SECRET
/// or the file SHOAL_SECRET_FILE), torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), Slurm,
/// PMI, Open MPI (OMPI_COMM_WORLD_*). Nothing set: one rank, alone. Half set or out of range: throws
/// Error(kBootstrap) that names the variables.
Identity identity_from_environment();

}  // namespace shoal::bootstrap
