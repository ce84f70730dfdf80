// Rails over UCX, one for each of two RDMA ports: where there are two, which is in tests/vm.
#include "conformance.h"
#include "transport/rail/rail_network.h"
#include "transport/rdma_devices.h"
#include "transport/ucx/loader.h"

namespace shoal::transport {
namespace {

constexpr std::size_t kRails = 2;

class UcxRails final : public Fabric {
 public:
  explicit UcxRails(int peers) {
    const std::vector<RdmaPort> ports = rdma_ports();
    for (int r = 0; r < peers; ++r) {
      std::vector<rail::Rail> rails;
      for (std::size_t i = 0; i < kRails; ++i) {
        ucx::UcxOptions options;
        options.self = r;
        options.peers = peers;
        options.device = ports[i].name();
        rails.push_back({ports[i].name(), ucx::make_ucx(options), ports[i].gbits, nullptr});
      }
      members_.push_back(rail::make_rail_network(std::move(rails), peers));
    }
    for (auto& member : members_) {
      for (int r = 0; r < peers; ++r) member->set_peer_address(r, members_[r]->address());
    }
  }
  Transport& at(int rank) override { return *members_[rank]; }

 private:
  std::vector<std::unique_ptr<rail::RailNetwork>> members_;
};

std::vector<Member> members() {
  if (!ucx::find_ucx().verbs || rdma_ports().size() < kRails) return {};
  return {{"ucx_2", [](int peers) { return std::make_unique<UcxRails>(peers); }}};
}

INSTANTIATE_TEST_SUITE_P(Rails, TransportConformance, testing::ValuesIn(members()), member_name);

TEST(UcxRails, AreTestedWhereThereAreTwoPorts) {
  if (members().empty()) GTEST_SKIP() << "no two RDMA ports, or no UCX with verbs";
}

}  // namespace
}  // namespace shoal::transport
