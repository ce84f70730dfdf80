/// Tables as text, to be kept in a file, and what is said of a row.
///
///   # rows that were measured together follow one of these lines
///   shoal-tuning 1; date 2026-03-01; hosts a, b; network UCX 1.22, tcp
///   # collective ranks node_ranks up_to_bytes algorithm us next_best us
///   all_reduce 4 2 65536 hierarchical 71.20 rabenseifner 93.05
///   all_to_all 4 2 1024 pairwise 40.00 - -
///
/// What follows a '#' is a comment. The texts of two tables one after the other are one too, unless
/// both answer for the same calls.
#pragma once

#include <string>
#include <string_view>

#include "shoal/export.h"
#include "tune/table.h"

namespace shoal::tune {

/// `name`: of the file, for errors. Throws Error(kInvalidArgument): file, line, what is wrong, what
/// to try.
Table parse(std::string_view text, const std::string& name);

/// "" for an empty table; else parse() makes the same table of it, times to 0.01 us.
std::string to_text(const Table& table);

/// Table::updated_by() of texts. `kept`, which may be "", comes from the file `name`.
SHOAL_API std::string merge(std::string_view kept, const std::string& name, std::string_view newer);

/// "measured by `shoal tune` on 2026-03-01: 71.2 us, next best rabenseifner 93.0 us; up to 65536
/// bytes, 4 ranks, 2 a node"; says so where `shape` is another one than was measured.
std::string describe(const Table& table, const Row& row, const schedule::Shape& shape);

}  // namespace shoal::tune
