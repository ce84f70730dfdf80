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
  std::string secret;         ///< never on a command line, never in a message
  bool serves_store = false;  ///< rank 0 starts the store itself (no launcher has)
  int store_socket = -1;      ///< on which it serves; -1: one that it opens
  std::string source;         ///< "shoal run", "torchrun", "slurm", "openmpi", "arguments", "alone"
};

/// Reads what the launcher left in the environment. The first of these that is set counts:
///
///   shoal run    SHOAL_RANK, SHOAL_WORLD_SIZE, SHOAL_STORE (host:port), SHOAL_JOB
///   torchrun     RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; rank 0 serves the store on
///                MASTER_PORT + 1 (MASTER_PORT is torch's own store)
///   Open MPI     OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE
///   Slurm        SLURM_PROCID, SLURM_NTASKS inside a step (srun); rank 0 is on the first node
///   PMI          PMI_RANK, PMI_SIZE (MPICH, Intel MPI)
///
/// Nothing set: one rank, alone. With Open MPI and PMI on several nodes SHOAL_STORE names an
/// address of rank 0. SHOAL_STORE_PORT replaces the port, SHOAL_JOB the name of the job.
///
/// The secret comes from SHOAL_SECRET_FD (a pipe or file), SHOAL_SECRET, or SHOAL_SECRET_FILE. Jobs
/// which another launcher starts without one use HMAC(key of the user, job): the key is 256 random
/// bits in ~/.cache/shoal/key (XDG_CACHE_HOME; else XDG_RUNTIME_DIR), mode 0600 in a directory of
/// mode 0700, made by whichever rank comes first. Who can read that file is the user, so this needs
/// no setting on one node or with a shared home directory; without one set SHOAL_SECRET_FILE.
///
/// Throws Error(kBootstrap) that names the variables which are half set or out of range.
Identity identity_from_environment();

}  // namespace shoal::bootstrap
