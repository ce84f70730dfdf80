/// Memory that holds symbols: of every element it is known which input elements were reduced into
/// it.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal::verify {

/// Bit r: rank r.
__extension__ using RankSet = unsigned __int128;
inline constexpr int kMaxRanks = 128;
constexpr RankSet only(int rank) noexcept { return RankSet{1} << rank; }

/// Element i of a stretch is the reduction of input element `first + i` of every rank in `ranks`.
struct Content {
  RankSet ranks = 0;  ///< who has contributed; nobody: never written
  std::int64_t first = 0;
  bool finished = false;

  [[nodiscard]] constexpr bool defined() const noexcept { return ranks != 0; }
  [[nodiscard]] constexpr Content further(std::int64_t n) const noexcept {
    return {ranks, first + n, finished};
  }
  friend constexpr bool operator==(const Content&, const Content&) = default;
};

/// A copy of a stretch of memory: `length` elements of one content after another.
struct Piece {
  std::int64_t length;
  Content content;
};
using Pieces = std::vector<Piece>;

/// Appends, and joins what continues the last piece.
void append(Pieces& pieces, const Piece& piece);

/// One buffer: a sorted list of stretches, so its cost is in the number of slices and not of
/// elements.
class Memory {
 public:
  explicit Memory(std::int64_t size);

  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  void read(std::int64_t begin, std::int64_t count, Pieces& out) const;
  void write(std::int64_t begin, const Pieces& pieces);

 private:
  struct Stretch {
    std::int64_t begin;
    Content content;
  };
  /// The stretch that contains an element.
  [[nodiscard]] std::size_t index_of(std::int64_t element) const noexcept;
  [[nodiscard]] std::int64_t end_of(std::size_t index) const noexcept;

  std::int64_t size_;
  std::vector<Stretch> stretches_;
  std::vector<Stretch> fresh_;  ///< working space of write()
};

}  // namespace shoal::verify
