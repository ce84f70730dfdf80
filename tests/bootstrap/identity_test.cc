#include "bootstrap/identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "bootstrap/secret.h"
#include "core/fd.h"
#include "shoal/error.h"

namespace shoal::bootstrap {
namespace {

using Variables = std::map<std::string, std::string>;

// Every variable that identity_from_environment() reads.
constexpr std::array kNames{"SHOAL_RANK",
                            "SHOAL_WORLD_SIZE",
                            "SHOAL_STORE",
                            "SHOAL_STORE_PORT",
                            "SHOAL_JOB",
                            "SHOAL_SECRET",
                            "SHOAL_SECRET_FD",
                            "SHOAL_SECRET_FILE",
                            "RANK",
                            "WORLD_SIZE",
                            "MASTER_ADDR",
                            "MASTER_PORT",
                            "TORCHELASTIC_RUN_ID",
                            "TORCHELASTIC_RESTART_COUNT",
                            "OMPI_COMM_WORLD_RANK",
                            "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_SIZE",
                            "PMIX_NAMESPACE",
                            "SLURM_PROCID",
                            "SLURM_NTASKS",
                            "SLURM_STEP_ID",
                            "SLURM_STEP_NUM_TASKS",
                            "SLURM_JOB_ID",
                            "SLURM_STEP_NODELIST",
                            "SLURM_JOB_NODELIST",
                            "SLURM_STEP_NUM_NODES",
                            "SLURM_NNODES",
                            "PMI_RANK",
                            "PMI_SIZE",
                            "PMI_JOBID",
                            "MPI_LOCALNRANKS",
                            "HOME",
                            "XDG_CACHE_HOME",
                            "XDG_RUNTIME_DIR"};

class IdentityTest : public ::testing::Test {
 protected:
  IdentityTest() {
    for (const char* name : kNames) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      ::unsetenv(name);
    }
    char pattern[] = "/tmp/shoal-identity-XXXXXX";
    home_ = ::mkdtemp(pattern);
    ::setenv("HOME", home_.c_str(), 1);
  }
  ~IdentityTest() override {
    for (const char* name : kNames) ::unsetenv(name);
    for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
    std::filesystem::remove_all(home_);
  }
  static Identity read(const Variables& variables) {
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    return identity_from_environment();
  }
  static std::string error_of(const Variables& variables) {
    try {
      read(variables);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBootstrap);
      return error.what();
    }
    return "no error";
  }
  std::string home_;
  Variables before_;
};

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

TEST_F(IdentityTest, NothingSetIsOneRankAlone) {
  const Identity identity = read({});
  EXPECT_EQ(identity.rank, 0);
  EXPECT_EQ(identity.ranks, 1);
  EXPECT_EQ(identity.source, "alone");
  EXPECT_TRUE(identity.store_host.empty());
}

TEST_F(IdentityTest, ShoalRun) {
  const Identity identity = read({{"SHOAL_RANK", "3"},
                                  {"SHOAL_WORLD_SIZE", "4"},
                                  {"SHOAL_STORE", "[fe80::1]:4000"},
                                  {"SHOAL_JOB", "j"},
                                  {"SHOAL_SECRET", "s"},
                                  {"RANK", "9"},
                                  {"WORLD_SIZE", "2"}});
  EXPECT_EQ(identity.rank, 3);
  EXPECT_EQ(identity.ranks, 4);
  EXPECT_EQ(identity.store_host, "fe80::1");
  EXPECT_EQ(identity.store_port, 4000);
  EXPECT_EQ(identity.job, "j");
  EXPECT_EQ(identity.secret, "s");
  EXPECT_FALSE(identity.serves_store);
  EXPECT_EQ(identity.source, "shoal run");
}

TEST_F(IdentityTest, Torchrun) {
  const Identity identity = read({{"RANK", "1"},
                                  {"WORLD_SIZE", "2"},
                                  {"MASTER_ADDR", "node1"},
                                  {"MASTER_PORT", "29500"},
                                  {"TORCHELASTIC_RUN_ID", "r"},
                                  {"TORCHELASTIC_RESTART_COUNT", "2"}});
  EXPECT_EQ(identity.store_host, "node1");
  EXPECT_EQ(identity.store_port, 29501);  // 29500 is torch's
  EXPECT_EQ(identity.job, "torchrun-r-29500-2");
  EXPECT_TRUE(identity.serves_store);
  EXPECT_EQ(identity.secret.size(), 64u);
}

TEST_F(IdentityTest, StorePortReplacesThePort) {
  const Identity identity = read({{"RANK", "1"},
                                  {"WORLD_SIZE", "2"},
                                  {"MASTER_ADDR", "node1"},
                                  {"MASTER_PORT", "29500"},
                                  {"SHOAL_STORE_PORT", "31000"}});
  EXPECT_EQ(identity.store_port, 31000);
}

TEST_F(IdentityTest, OpenMpiOnOneNode) {
  const Identity identity = read({{"OMPI_COMM_WORLD_RANK", "0"},
                                  {"OMPI_COMM_WORLD_SIZE", "4"},
                                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                                  {"PMIX_NAMESPACE", "n"}});
  EXPECT_EQ(identity.job, "openmpi-n");
  EXPECT_EQ(identity.store_host, "127.0.0.1");
  EXPECT_GE(identity.store_port, 15000);
  EXPECT_LT(identity.store_port, 30000);
  EXPECT_TRUE(identity.serves_store);
}

TEST_F(IdentityTest, OpenMpiOnSeveralNodesNeedsAnAddress) {
  EXPECT_HAS(error_of({{"OMPI_COMM_WORLD_RANK", "0"},
                       {"OMPI_COMM_WORLD_SIZE", "4"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}),
             "SHOAL_STORE");
}

TEST_F(IdentityTest, SlurmStepFindsTheFirstNode) {
  const Identity identity = read({{"SLURM_PROCID", "5"},
                                  {"SLURM_NTASKS", "8"},
                                  {"SLURM_STEP_ID", "0"},
                                  {"SLURM_JOB_ID", "77"},
                                  {"SLURM_STEP_NODELIST", "gpu[03-05,9],x"},
                                  {"SLURM_STEP_NUM_NODES", "4"},
                                  {"PMI_RANK", "5"},
                                  {"PMI_SIZE", "8"}});
  EXPECT_EQ(identity.source, "slurm");
  EXPECT_EQ(identity.store_host, "gpu03");
  EXPECT_EQ(identity.job, "slurm-77-0");
}

TEST_F(IdentityTest, SlurmBatchScriptIsAlone) {
  EXPECT_EQ(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}).ranks, 1);
}

TEST_F(IdentityTest, Pmi) {
  const Identity identity = read({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(identity.source, "pmi");
  EXPECT_EQ(identity.rank, 1);
  EXPECT_EQ(identity.store_host, "127.0.0.1");
}

TEST_F(IdentityTest, HalfSetNamesBothVariables) {
  const std::string error = error_of({{"RANK", "1"}});
  EXPECT_HAS(error, "RANK is set but WORLD_SIZE is not");
}

TEST_F(IdentityTest, OutOfRangeNamesVariableAndValue) {
  const Variables base{{"SHOAL_STORE", "h:1"}, {"SHOAL_SECRET", "s"}};
  for (const auto& [rank, size, named] :
       {std::array{"4", "4", "SHOAL_RANK is \"4\""}, std::array{"-1", "4", "SHOAL_RANK is \"-1\""},
        std::array{"0", "0", "SHOAL_WORLD_SIZE is \"0\""},
        std::array{"1x", "4", "SHOAL_RANK is \"1x\""},
        std::array{"0", "99999999999", "SHOAL_WORLD_SIZE is \"99999999999\""}}) {
    Variables variables = base;
    variables["SHOAL_RANK"] = rank;
    variables["SHOAL_WORLD_SIZE"] = size;
    EXPECT_HAS(error_of(variables), named);
  }
}

TEST_F(IdentityTest, BadStoreIsNamed) {
  for (const char* store : {"host", "host:", "host:0", "host:65536", ":5", "host:5x"}) {
    EXPECT_HAS(error_of({{"SHOAL_RANK", "0"},
                         {"SHOAL_WORLD_SIZE", "2"},
                         {"SHOAL_SECRET", "s"},
                         {"SHOAL_STORE", store}}),
               "SHOAL_STORE");
  }
}

TEST_F(IdentityTest, ShoalRunWithoutASecretIsAnError) {
  EXPECT_HAS(error_of({{"SHOAL_RANK", "0"}, {"SHOAL_WORLD_SIZE", "2"}, {"SHOAL_STORE", "h:1"}}),
             "SHOAL_SECRET_FILE");
}

TEST_F(IdentityTest, SecretFromAPipeIsKeptForTheNextCall) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "piped\n", 6), 6);
  ::close(ends[1]);
  ::setenv("SHOAL_SECRET_FD", std::to_string(ends[0]).c_str(), 1);
  EXPECT_EQ(secret_from_environment(), "piped");
  EXPECT_EQ(secret_from_environment(), "piped");
}

// The launcher's memory file: whoever inherited it too may have left their common offset at the
// end.
TEST_F(IdentityTest, SecretFromAFileIsReadFromItsStartAndTheDescriptorClosed) {
  const Fd file(::memfd_create("secret", MFD_CLOEXEC));
  ASSERT_EQ(::write(file.get(), "kept\n", 5), 5);
  static int unread = 100;  // what has been read is kept by number
  const int fd = ::fcntl(file.get(), F_DUPFD_CLOEXEC, unread++);
  ::setenv("SHOAL_SECRET_FD", std::to_string(fd).c_str(), 1);
  EXPECT_EQ(secret_from_environment(), "kept");
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

TEST_F(IdentityTest, SecretFileMustBePrivate) {
  const std::string path = home_ + "/secret";
  std::ofstream(path) << "filed\n";
  ::setenv("SHOAL_SECRET_FILE", path.c_str(), 1);
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  EXPECT_THROW((void)secret_from_environment(), Error);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(secret_from_environment(), "filed");
}

// All ranks of a user derive the same secret; another job has another one.
TEST_F(IdentityTest, KeyOfTheUserIsMadeOnceAndIsPrivate) {
  const std::string secret = secret_of_user("a");
  EXPECT_EQ(secret, secret_of_user("a"));
  EXPECT_NE(secret, secret_of_user("b"));
  struct stat info{};
  ASSERT_EQ(::stat((home_ + "/.cache/shoal/key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((home_ + "/.cache/shoal").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_EQ(::chmod((home_ + "/.cache/shoal").c_str(), 0755), 0);
  EXPECT_THROW((void)secret_of_user("a"), Error);
}

}  // namespace
}  // namespace shoal::bootstrap
