// Which file is read, and that one which was named and is not there is never passed over.

#include "tune/load.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "rows.h"
#include "shoal/error.h"
#include "tune/text.h"

namespace shoal::tune {
namespace {

namespace fs = std::filesystem;

class Load : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("shoal-tune-test-" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "shoal");
    ::unsetenv("SHOAL_TUNING_FILE");
    ::setenv("XDG_CONFIG_HOME", folder_.c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("XDG_CONFIG_HOME");
    fs::remove_all(folder_);
  }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static std::string table() { return to_text(table_of({all_reduce(4, 1, 64, Algorithm::kRing)})); }
  static std::string error_of(const std::string& chosen) {
    try {
      load(chosen);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(Load, TheUsualFileNeedNotExist) {
  EXPECT_TRUE(load("").empty());
  write("shoal/tuning", table());
  EXPECT_FALSE(load("").empty());
  EXPECT_EQ(usual_path(), (folder_ / "shoal/tuning").string());
}

TEST_F(Load, TheHomeDirectoryHasIt) {
  ::unsetenv("XDG_CONFIG_HOME");
  ::setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(usual_path(), "/home/somebody/.config/shoal/tuning");
}

TEST_F(Load, WhatIsNamedComesFirstAndMustExist) {
  write("shoal/tuning", "malformed");
  const std::string named = write("named", table());
  EXPECT_FALSE(load(named).empty());
  EXPECT_NE(error_of(folder_ / "missing").find("no such file"), std::string::npos);
  ::setenv("SHOAL_TUNING_FILE", (folder_ / "missing").c_str(), 1);
  EXPECT_NE(error_of("").find("no such file"), std::string::npos);
  ::setenv("SHOAL_TUNING_FILE", named.c_str(), 1);
  EXPECT_FALSE(load("").empty());
}

TEST_F(Load, NoneIsNoTable) {
  write("shoal/tuning", "malformed");
  EXPECT_TRUE(load("none").empty());
  ::setenv("SHOAL_TUNING_FILE", "none", 1);
  EXPECT_TRUE(load("").empty());
}

TEST_F(Load, WhatIsNoTableIsSaidSo) {
  EXPECT_NE(error_of(folder_).find("cannot be read"), std::string::npos) << error_of(folder_);
  EXPECT_NE(error_of(write("large", std::string(2 << 20, '#'))).find("larger"), std::string::npos);
  EXPECT_NE(error_of(write("shoal/tuning", "malformed")).find("tuning:1: "), std::string::npos);
}

}  // namespace
}  // namespace shoal::tune
