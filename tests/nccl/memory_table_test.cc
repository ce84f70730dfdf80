/// Which registration a message's memory lies in: NCCL registers its buffers, users register
/// theirs, and those may overlap.
#include "nccl/net/memory_table.h"

#include <gtest/gtest.h>

namespace shoal::nccl {
namespace {

const void* at(std::uintptr_t address) { return reinterpret_cast<const void*>(address); }
void* handle(std::uintptr_t number) { return reinterpret_cast<void*>(number); }

TEST(MemoryTable, FindsWhatHoldsAllOfAMessage) {
  MemoryTable table;
  table.add({0x1000, 0x1000, handle(1)});
  table.add({0x3000, 0x1000, handle(2)});
  EXPECT_EQ(table.find(at(0x1000), 0x1000), handle(1));
  EXPECT_EQ(table.find(at(0x1fff), 1), handle(1));
  EXPECT_EQ(table.find(at(0x3800), 0x800), handle(2));
  EXPECT_EQ(table.find(at(0x1800), 0x1000), nullptr) << "its end is outside";
  EXPECT_EQ(table.find(at(0x0fff), 2), nullptr) << "its begin is outside";
  EXPECT_EQ(table.find(at(0x2800), 8), nullptr) << "between the two";
}

TEST(MemoryTable, LooksPastASmallOneThatBeginsLater) {
  MemoryTable table;
  table.add({0x1000, 0x10000, handle(1)});
  table.add({0x2000, 0x100, handle(2)});
  EXPECT_EQ(table.find(at(0x2080), 0x1000), handle(1));
}

TEST(MemoryTable, TheSameMemoryTwiceIsTwoRegistrations) {
  MemoryTable table;
  RegisteredMemory* const first = table.add({0x1000, 0x1000, handle(1)});
  RegisteredMemory* const second = table.add({0x1000, 0x1000, handle(2)});
  EXPECT_TRUE(table.remove(second));
  EXPECT_EQ(table.find(at(0x1000), 16), handle(1));
  EXPECT_TRUE(table.remove(first));
  EXPECT_EQ(table.find(at(0x1000), 16), nullptr);
}

TEST(MemoryTable, AnothersRegistrationIsNotRemoved) {
  MemoryTable table, other;
  table.add({0x1000, 0x1000, handle(1)});
  EXPECT_FALSE(table.remove(other.add({0x1000, 0x1000, handle(2)})));
  EXPECT_EQ(table.find(at(0x1000), 16), handle(1));
}

}  // namespace
}  // namespace shoal::nccl
