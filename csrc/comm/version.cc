#include "shoal/communicator.h"

namespace shoal {

const char* version() noexcept { return SHOAL_VERSION; }

}  // namespace shoal
