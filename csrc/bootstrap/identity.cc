#include "bootstrap/identity.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string_view>

#include "bootstrap/secret.h"
#include "bootstrap/socket.h"
#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

constexpr std::uint16_t kFirstPort = 15000;  // below the kernel's ephemeral range
constexpr std::uint16_t kPorts = 15000;

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::kBootstrap, "environment: " + why);
}

int number(const std::string& name, const std::string& text, int low, int high) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc{} || parsed.ptr != end || value < low || value > high) {
    refuse(name + " is \"" + text + "\"; expected a number from " + std::to_string(low) + " to " +
           std::to_string(high));
  }
  return value;
}

// Reads a pair such as RANK and WORLD_SIZE. False: neither is set.
bool read_pair(const char* rank_name, const char* size_name, Identity& identity) {
  const auto rank = variable(rank_name);
  const auto size = variable(size_name);
  if (!rank && !size) return false;
  if (!rank || !size) {
    refuse(std::string(rank ? rank_name : size_name) + " is set but " +
           (rank ? size_name : rank_name) + " is not; set both or neither");
  }
  identity.ranks = number(size_name, *size, 1, std::numeric_limits<int>::max());
  identity.rank = number(rank_name, *rank, 0, identity.ranks - 1);
  return true;
}

// The same on all ranks of a job, and seldom that of another (FNV-1a).
std::uint16_t port_for(std::string_view job) {
  std::uint32_t hash = 2166136261u;
  for (const unsigned char letter : job) hash = (hash ^ letter) * 16777619u;
  return static_cast<std::uint16_t>(kFirstPort + hash % kPorts);
}

void serve_at(Identity& identity, const std::string& host) {
  identity.serves_store = true;
  identity.store_host = host;
  identity.store_port = port_for(identity.job);
}

// "gpu[03-05,9],login" -> "gpu03"
std::string first_node(const std::string& list) {
  const std::size_t open = list.find_first_of("[,");
  if (open == std::string::npos || list[open] == ',') return list.substr(0, open);
  const std::size_t end = list.find_first_of(",-]", open + 1);
  return list.substr(0, open) + list.substr(open + 1, end - open - 1);
}

bool from_shoal(Identity& identity) {
  if (!read_pair("SHOAL_RANK", "SHOAL_WORLD_SIZE", identity)) return false;
  identity.source = "shoal run";
  identity.job = "shoal";
  if (identity.ranks > 1 && !variable("SHOAL_STORE")) {
    refuse("SHOAL_RANK and SHOAL_WORLD_SIZE are set but SHOAL_STORE (host:port) is not");
  }
  return true;
}

bool from_torchrun(Identity& identity) {
  if (!read_pair("RANK", "WORLD_SIZE", identity)) return false;
  identity.source = "torchrun";
  const auto host = variable("MASTER_ADDR");
  const auto port = variable("MASTER_PORT");
  if (identity.ranks > 1 && (!host || !port)) {
    refuse("RANK and WORLD_SIZE are set but MASTER_ADDR and MASTER_PORT are not both");
  }
  identity.job = "torchrun-" + variable("TORCHELASTIC_RUN_ID").value_or("none") + "-" +
                 port.value_or("0") + "-" + variable("TORCHELASTIC_RESTART_COUNT").value_or("0");
  if (identity.ranks == 1) return true;
  serve_at(identity, *host);
  const int master = number("MASTER_PORT", *port, 1, 65535);
  identity.store_port = static_cast<std::uint16_t>(master < 65535 ? master + 1 : master - 1);
  return true;
}

bool from_openmpi(Identity& identity) {
  if (!read_pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", identity)) return false;
  identity.source = "openmpi";
  const auto name = variable("PMIX_NAMESPACE");
  identity.job = "openmpi-" + name.value_or(std::to_string(::getppid()));
  const bool one_node = variable("OMPI_COMM_WORLD_LOCAL_SIZE") == variable("OMPI_COMM_WORLD_SIZE");
  serve_at(identity, one_node ? "127.0.0.1" : "");
  return true;
}

// Inside a step only: a batch script has SLURM_PROCID too, but is alone.
bool from_slurm(Identity& identity) {
  const auto step = variable("SLURM_STEP_ID");
  if (!step) return false;
  const char* size = variable("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  if (!read_pair("SLURM_PROCID", size, identity)) return false;
  identity.source = "slurm";
  identity.job = "slurm-" + variable("SLURM_JOB_ID").value_or("0") + "-" + *step;
  const auto nodes = variable("SLURM_STEP_NODELIST") ? variable("SLURM_STEP_NODELIST")
                                                     : variable("SLURM_JOB_NODELIST");
  const auto count = variable("SLURM_STEP_NUM_NODES") ? variable("SLURM_STEP_NUM_NODES")
                                                      : variable("SLURM_NNODES");
  serve_at(identity, count == "1" ? "127.0.0.1" : first_node(nodes.value_or("")));
  return true;
}

bool from_pmi(Identity& identity) {
  if (!read_pair("PMI_RANK", "PMI_SIZE", identity)) return false;
  identity.source = "pmi";
  // Hydra's proxy is the parent of every rank of a node.
  identity.job = "pmi-" + variable("PMI_JOBID").value_or(std::to_string(::getppid()));
  const bool one_node = variable("MPI_LOCALNRANKS") == variable("PMI_SIZE");
  serve_at(identity, one_node ? "127.0.0.1" : "");
  return true;
}

void apply_overrides(Identity& identity) {
  if (const auto job = variable("SHOAL_JOB")) identity.job = *job;
  if (const auto store = variable("SHOAL_STORE")) {
    const Address address = parse_address(*store, "environment: SHOAL_STORE");
    identity.store_host = address.host;
    identity.store_port = address.port;
  }
  if (const auto port = variable("SHOAL_STORE_PORT")) {
    identity.store_port = static_cast<std::uint16_t>(number("SHOAL_STORE_PORT", *port, 1, 65535));
  }
  if (identity.ranks > 1 && identity.store_host.empty()) {
    refuse("this " + identity.source +
           " job has several nodes and does not say where rank 0 is; "
           "set SHOAL_STORE=host:port (an address of rank 0's host) and SHOAL_JOB on all ranks");
  }
}

}  // namespace

Identity identity_from_environment() {
  Identity identity;
  const bool launched = from_shoal(identity) || from_torchrun(identity) || from_openmpi(identity) ||
                        from_slurm(identity) || from_pmi(identity);
  if (!launched) {
    identity.source = "alone";
    identity.job = variable("SHOAL_JOB").value_or("alone-" + std::to_string(::getpid()));
    return identity;
  }
  apply_overrides(identity);
  if (identity.ranks == 1) return identity;
  identity.secret = secret_from_environment();
  if (identity.secret.empty() && identity.source == "shoal run") {
    refuse(
        "no secret: SHOAL_RANK is set but none of SHOAL_SECRET_FD, SHOAL_SECRET and "
        "SHOAL_SECRET_FILE; `shoal run` sets one");
  }
  if (identity.secret.empty()) identity.secret = secret_of_user(identity.job);
  return identity;
}

}  // namespace shoal::bootstrap
