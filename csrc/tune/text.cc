#include "tune/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <memory>

#include "shoal/error.h"

namespace shoal::tune {

namespace {

using schedule::Algorithm;

constexpr std::string_view kMagic = "shoal-tuning";
constexpr int kVersion = 1;
constexpr std::string_view kColumns =
    "collective ranks node_ranks up_to_bytes algorithm us next_best us";
constexpr std::size_t kColumnCount = 8;
constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) noexcept {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (line = trimmed(line); !line.empty(); line = trimmed(line)) {
    const std::size_t end = std::min(line.find_first_of(kBlanks), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

/// Removes and returns what stands before the first `separator`, or everything.
std::string_view take_until(std::string_view& text, char separator) noexcept {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return taken;
}

std::string quoted(std::string_view word) { return std::string("\"").append(word).append("\""); }

template <class Number>
bool read(std::string_view word, Number& number) noexcept {
  const char* end = std::to_address(word.end());
  const auto [stop, error] = std::from_chars(std::to_address(word.begin()), end, number);
  return error == std::errc() && stop == end;
}

/// One thread; a file's way into a table.
class Parser {
 public:
  explicit Parser(const std::string& name) : name_(name) {}

  void feed(std::string_view line) {
    ++line_;
    line = trimmed(take_until(line, '#'));
    if (line.empty()) return;
    if (line.starts_with(kMagic)) {
      origins_.push_back(header(line.substr(kMagic.size())));
    } else {
      add(row(words_of(line)));
    }
  }

  Table finish() && {
    if (origins_.empty()) refuse("has no line \"shoal-tuning 1; ...\"", kMeasure);
    return {std::move(origins_), std::move(rows_)};
  }

 private:
  static constexpr std::string_view kMeasure =
      "write it with `shoal tune`, or name another file by SHOAL_TUNING_FILE or "
      "shoal.init(tuning=...), \"none\" for no table";

  [[noreturn]] void refuse(const std::string& what, std::string_view remedy) const {
    throw Error(ErrorCode::kInvalidArgument, "tuning table " + name_ + ":" +
                                                 std::to_string(std::max(line_, 1)) + ": " + what +
                                                 "; " + std::string(remedy));
  }

  Origin header(std::string_view line) const {
    const std::string_view version = trimmed(take_until(line, ';'));
    int number = 0;
    if (!read(version, number) || number != kVersion) {
      refuse("is of format version " + quoted(version) + ", this shoal reads version " +
                 std::to_string(kVersion),
             "measure again with `shoal tune`");
    }
    Origin origin;
    origin.date = field(take_until(line, ';'), "date");
    origin.hosts = field(take_until(line, ';'), "hosts");
    origin.network = field(line, "network");
    return origin;
  }

  std::string field(std::string_view text, std::string_view key) const {
    text = trimmed(text);
    if (!text.starts_with(key)) {
      refuse("the header has " + quoted(text) + " in the place of " + quoted(key),
             "it reads: shoal-tuning 1; date D; hosts H; network N");
    }
    return std::string(trimmed(text.substr(key.size())));
  }

  template <class Number>
  Number number(std::string_view word, std::string_view column) const {
    Number value{};
    if (!read(word, value)) {
      refuse(std::string(column) + " " + quoted(word) + " is not a number that fits", columns());
    }
    return value;
  }

  Collective collective(std::string_view word) const {
    std::string names;
    for (int i = 0; i < kCollectives; ++i) {
      const auto each = static_cast<Collective>(i);
      if (name_of(each) == word) return each;
      names += (names.empty() ? "" : ", ") + std::string(name_of(each));
    }
    refuse("collective " + quoted(word) + " is not known", "known are " + names);
  }

  Algorithm algorithm(std::string_view word) const {
    if (const auto found = schedule::algorithm_named(word)) return *found;
    refuse("algorithm " + quoted(word) + " is not known",
           "`shoal plan --list` shows those that this version has; else measure again");
  }

  static std::string columns() { return "a line reads: " + std::string(kColumns); }

  Row row(const std::vector<std::string_view>& words) const {
    if (origins_.empty()) refuse("has a row before the line \"shoal-tuning 1; ...\"", kMeasure);
    if (words.size() != kColumnCount) {
      refuse(
          "has " + std::to_string(words.size()) + " words, needs " + std::to_string(kColumnCount),
          columns());
    }
    Row row;
    row.collective = collective(words[0]);
    row.ranks = number<Rank>(words[1], "ranks");
    row.node_ranks = number<Rank>(words[2], "node_ranks");
    row.up_to_bytes = number<std::int64_t>(words[3], "up_to_bytes");
    row.algorithm = algorithm(words[4]);
    row.us = number<double>(words[5], "us");
    if (words[6] != "-" || words[7] != "-") {
      row.next = algorithm(words[6]);
      row.next_us = number<double>(words[7], "us of the next best");
    }
    row.origin = origins_.size() - 1;
    if (const std::string wrong = objection(row); !wrong.empty()) {
      refuse(wrong, "correct the line, or measure again with `shoal tune`");
    }
    return row;
  }

  void add(const Row& row) {
    const auto same =
        std::ranges::find_if(rows_, [&](const Row& r) { return is_same_cell(r, row); });
    if (same != rows_.end()) {
      refuse("answers for the same calls as line " +
                 std::to_string(lines_[static_cast<std::size_t>(same - rows_.begin())]),
             "remove one of them");
    }
    rows_.push_back(row);
    lines_.push_back(line_);
  }

  const std::string& name_;
  int line_ = 0;
  std::vector<Origin> origins_;
  std::vector<Row> rows_;
  std::vector<int> lines_;  // of rows_
};

/// Never with a decimal comma, whatever the locale.
std::string in_us(double us, int digits) {
  std::array<char, 64> text{};
  const auto end =
      std::to_chars(text.data(), text.data() + text.size(), us, std::chars_format::fixed, digits)
          .ptr;
  return {text.data(), end};
}

/// What would end a field, or the line, does not get into one.
std::string plain(std::string text) {
  std::ranges::replace_if(text, [](char c) { return c == ';' || c == '#' || c == '\n'; }, ',');
  return std::string(trimmed(text));
}

std::string to_text(const Row& row) {
  std::string line(name_of(row.collective));
  const auto add = [&line](std::string_view word) { line.append(" ").append(word); };
  add(std::to_string(row.ranks));
  add(std::to_string(row.node_ranks));
  add(std::to_string(row.up_to_bytes));
  add(schedule::name_of(row.algorithm));
  add(in_us(row.us, 2));
  add(row.next.has_value() ? schedule::name_of(*row.next) : "-");
  add(row.next.has_value() ? in_us(row.next_us, 2) : "-");
  return line + "\n";
}

}  // namespace

Table parse(std::string_view text, const std::string& name) {
  Parser parser(name);
  while (!text.empty()) parser.feed(take_until(text, '\n'));
  return std::move(parser).finish();
}

std::string to_text(const Table& table) {
  std::string text;
  for (std::size_t i = 0; i < table.origins().size(); ++i) {
    const Origin& origin = table.origins()[i];
    if (std::ranges::none_of(table.rows(), [&](const Row& r) { return r.origin == i; })) continue;
    text += std::string(kMagic) + " " + std::to_string(kVersion) + "; date " + plain(origin.date) +
            "; hosts " + plain(origin.hosts) + "; network " + plain(origin.network) + "\n# " +
            std::string(kColumns) + "\n";
    for (const Row& row : table.rows()) {
      if (row.origin == i) text += to_text(row);
    }
  }
  return text;
}

std::string merge(std::string_view kept, const std::string& name, std::string_view newer) {
  const Table old = kept.empty() ? Table() : parse(kept, name);
  return to_text(old.updated_by(parse(newer, "of what was measured now")));
}

std::string describe(const Table& table, const Row& row, const schedule::Shape& shape) {
  const bool is_exact = row.ranks == shape.ranks && row.node_ranks == shape.node_ranks;
  std::string text = "measured by `shoal tune` on " + table.origins()[row.origin].date + ": " +
                     in_us(row.us, 1) + " us";
  if (row.next.has_value()) {
    text += ", next best " + std::string(schedule::name_of(*row.next)) + " " +
            in_us(row.next_us, 1) + " us";
  }
  text += "; ";
  if (row.collective != Collective::kBarrier) {
    text += "up to " + std::to_string(row.up_to_bytes) + " bytes, ";
  }
  text += std::to_string(row.ranks) + " ranks, " + std::to_string(row.node_ranks) + " a node";
  return is_exact ? text : text + ", the nearest shape that was measured";
}

}  // namespace shoal::tune
