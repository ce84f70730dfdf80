#include "memory/copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace shoal::memory {
namespace {

// All distances around the slow ones, sizes around the pieces: exactly the bytes asked for.
TEST(CopyBytes, CopiesExactlyWhatIsAskedAtEveryDistance) {
  constexpr int kRoom = 3 * 4096;
  std::vector<unsigned char> source(kRoom + 4096);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<unsigned char>(i % 251);
  std::vector<unsigned char> target(source.size());
  for (const int shift : {0, 1, 16, 31, 32, 63, 64, 65, 2048, 4095}) {
    const auto aligned = [](std::vector<unsigned char>& bytes) {
      const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
      return bytes.data() + (4096 - address % 4096) % 4096;
    };
    for (const int bytes : {0, 1, 2047, 2048, 2049, 4096, 5000}) {
      std::fill(target.begin(), target.end(), 0xff);
      const unsigned char* from = aligned(source);
      unsigned char* to = aligned(target) + shift;
      copy_bytes(to, from, bytes);
      EXPECT_TRUE(std::equal(to, to + bytes, from)) << shift << " " << bytes;
      EXPECT_EQ(to[bytes], 0xff);
      EXPECT_EQ(std::count(target.begin(), target.end(), 0xff),
                static_cast<std::ptrdiff_t>(target.size()) - bytes);
    }
  }
}

TEST(CopyBytes, NothingFromNowhereIsFine) { copy_bytes(nullptr, nullptr, 0); }

}  // namespace
}  // namespace shoal::memory
