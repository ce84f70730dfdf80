/// Text that is compared with a file of tests/golden/. SHOAL_UPDATE_GOLDEN=1 writes the files
/// instead: read the difference before you commit it. Tests run in the root of the sources.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace shoal::golden {

inline void expect_golden(const std::string& name, const std::string& text) {
  const std::string path = "tests/golden/" + name;
  if (std::getenv("SHOAL_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path) << text;
    return;
  }
  std::ifstream file(path);
  ASSERT_TRUE(file) << path
                    << " is missing: run with SHOAL_UPDATE_GOLDEN=1 in the root of the sources";
  std::ostringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(golden.str(), text) << path
                                << " differs: if that is meant, run with SHOAL_UPDATE_GOLDEN=1";
}

}  // namespace shoal::golden
