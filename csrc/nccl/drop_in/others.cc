/// The functions of NCCL's interface that shoal does not do: NCCL itself does them where there is
/// one, else they fail with their name. All take words only (pointers and integers) and return a
/// ncclResult_t, so that one way of passing on serves all; twelve words are more than any has.
#include "nccl/drop_in/group.h"
#include "nccl/drop_in/real.h"

namespace shoal::nccl {

namespace {

using Word = std::uintptr_t;
constexpr int kNone = -1;

/// `comm`: which argument is the communicator.
ncclResult_t pass_on(const char* function, int comm, Word (&a)[12]) noexcept {
  return guarded([&] {
    if (comm != kNone) {
      auto* ours = reinterpret_cast<ncclComm*>(a[comm]);
      a[comm] = reinterpret_cast<Word>(real_communicator(checked(ours, function), function));
    }
    call_real(function, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
  });
}

}  // namespace

// NOLINTBEGIN(bugprone-macro-parentheses)
#define SHOAL_NCCL_OTHER(name, comm)                                                               \
  SHOAL_NCCL_API ncclResult_t name(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h, \
                                   Word i, Word j, Word k, Word l) {                               \
    Word words[12] = {a, b, c, d, e, f, g, h, i, j, k, l};                                         \
    return pass_on(#name, comm, words);                                                            \
  }                                                                                                \
  SHOAL_NCCL_SECOND_NAME(name)
// NOLINTEND(bugprone-macro-parentheses)

SHOAL_NCCL_OTHER(ncclMemAlloc, kNone);
SHOAL_NCCL_OTHER(ncclMemFree, kNone);
SHOAL_NCCL_OTHER(ncclCommRevoke, 0);
SHOAL_NCCL_OTHER(ncclCommGetUniqueId, 0);
SHOAL_NCCL_OTHER(ncclCommGrow, 0);
SHOAL_NCCL_OTHER(ncclCommSuspend, 0);
SHOAL_NCCL_OTHER(ncclCommResume, 0);
SHOAL_NCCL_OTHER(ncclCommMemStats, 0);
SHOAL_NCCL_OTHER(ncclCommQueryProperties, 0);
SHOAL_NCCL_OTHER(ncclCommWindowRegister, 0);
SHOAL_NCCL_OTHER(ncclCommWindowDeregister, 0);
SHOAL_NCCL_OTHER(ncclWinGetUserPtr, 0);
SHOAL_NCCL_OTHER(ncclDevCommCreate, 0);
SHOAL_NCCL_OTHER(ncclDevCommDestroy, 0);
SHOAL_NCCL_OTHER(ncclPutSignal, 9);
SHOAL_NCCL_OTHER(ncclSignal, 4);
SHOAL_NCCL_OTHER(ncclWaitSignal, 2);
SHOAL_NCCL_OTHER(ncclGroupSimulateEnd, kNone);
SHOAL_NCCL_OTHER(ncclSetEncryption, kNone);
SHOAL_NCCL_OTHER(ncclParamBind, kNone);
SHOAL_NCCL_OTHER(ncclParamGetI8, kNone);
SHOAL_NCCL_OTHER(ncclParamGetI16, kNone);
SHOAL_NCCL_OTHER(ncclParamGetI32, kNone);
SHOAL_NCCL_OTHER(ncclParamGetI64, kNone);
SHOAL_NCCL_OTHER(ncclParamGetU8, kNone);
SHOAL_NCCL_OTHER(ncclParamGetU16, kNone);
SHOAL_NCCL_OTHER(ncclParamGetU32, kNone);
SHOAL_NCCL_OTHER(ncclParamGetU64, kNone);
SHOAL_NCCL_OTHER(ncclParamGetStr, kNone);
SHOAL_NCCL_OTHER(ncclParamGet, kNone);
SHOAL_NCCL_OTHER(ncclParamGetParameter, kNone);
SHOAL_NCCL_OTHER(ncclParamGetAllParameterKeys, kNone);
SHOAL_NCCL_OTHER(ncclParamDumpAll, kNone);
SHOAL_NCCL_OTHER(ncclResetDebugInit, kNone);

}  // namespace shoal::nccl
