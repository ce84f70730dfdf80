// What an error says of the limits of RDMA resources, from files as the kernel writes them.
#include "transport/ucx/rdma_limits.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace shoal::transport::ucx {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUnlimited =
    "Limit                     Soft Limit           Hard Limit           Units\n"
    "Max locked memory         unlimited            unlimited            bytes\n";
constexpr const char* kSixtyFourKib =
    "Limit                     Soft Limit           Hard Limit           Units\n"
    "Max locked memory         65536                65536                bytes\n";
constexpr const char* kNoCapabilities = "VmPin:\t      48 kB\nCapEff:\t0000000000000000\n";
constexpr const char* kAllCapabilities = "VmPin:\t      48 kB\nCapEff:\t000001ffffffffff\n";

class RdmaLimits : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "shoal-limits-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    write("proc/self/limits", kUnlimited);
    write("proc/self/status", kAllCapabilities);
    write("proc/self/cgroup", "0::/jobs/7\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  [[nodiscard]] std::string text() const { return explain_rdma_limits(root_); }
  void expect_says(const std::string& words) const {
    EXPECT_NE(text().find(words), std::string::npos) << words << " is not in: " << text();
  }

  fs::path root_;
};

TEST_F(RdmaLimits, NoneIsNothingToSay) {
  write("sys/fs/cgroup/jobs/7/rdma.max", "rxe0 hca_handle=max hca_object=max\n");
  EXPECT_EQ(text(), "");
}

TEST_F(RdmaLimits, LockedMemoryIsNamedWithWhatIsPinnedAndHowToRaiseIt) {
  write("proc/self/limits", kSixtyFourKib);
  write("proc/self/status", kNoCapabilities);
  expect_says("may lock 64 KiB of memory and has pinned 48 KiB");
  expect_says("ulimit -l unlimited");
}

TEST_F(RdmaLimits, LockedMemoryDoesNotLimitWhoHasTheCapability) {
  write("proc/self/limits", kSixtyFourKib);
  EXPECT_EQ(text(), "");
}

TEST_F(RdmaLimits, TheLimitOfACgroupAboveIsNamedWithWhatIsInUse) {
  write("sys/fs/cgroup/jobs/7/rdma.max", "rxe0 hca_handle=max hca_object=max\n");
  write("sys/fs/cgroup/jobs/rdma.max",
        "rxe0 hca_handle=2 hca_object=max\nrxe1 hca_handle=max hca_object=max\n");
  write("sys/fs/cgroup/jobs/rdma.current", "rxe0 hca_handle=1 hca_object=9 \n");
  expect_says((root_ / "sys/fs/cgroup/jobs/rdma.max").string() +
              " allows hca_handle=2 of rxe0, in use now: hca_handle=1 hca_object=9");
  EXPECT_EQ(text().find("rxe1"), std::string::npos) << text();
}

TEST_F(RdmaLimits, TheOldLayoutHasATreeOfItsOwn) {
  write("proc/self/cgroup", "5:rdma:/jobs\n4:memory:/jobs\n");
  write("sys/fs/cgroup/rdma/jobs/rdma.max", "mlx5_0 hca_handle=3 hca_object=20\n");
  expect_says("allows hca_handle=3 hca_object=20 of mlx5_0");
}

}  // namespace
}  // namespace shoal::transport::ucx
