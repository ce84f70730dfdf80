#include "bootstrap/auth.h"

#include <sys/random.h>
#ifdef SHOAL_DECLARES_OPENSSL  // its library is there, its headers are not: CMakeLists.txt
extern "C" {
struct evp_md_st;
const evp_md_st* EVP_sha256();
unsigned char* HMAC(const evp_md_st* hash, const void* key, int key_bytes,
                    const unsigned char* data, unsigned long data_bytes, unsigned char* digest,
                    unsigned int* digest_bytes);
int CRYPTO_memcmp(const void* a, const void* b, unsigned long bytes);
}
#else
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#endif

#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "shoal/error.h"

namespace shoal::bootstrap {

std::string random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  SHOAL_ASSERT(count <= 256);  // up to 256 bytes getrandom() gives all or fails
  while (::getrandom(bytes.data(), count, 0) != static_cast<ssize_t>(count)) {
    if (errno == EINTR) continue;
    throw Error(ErrorCode::kSystem,
                std::string("bootstrap: getrandom failed: ") + std::strerror(errno));
  }
  return bytes;
}

std::string to_hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const unsigned char byte : bytes) {
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

std::string hmac_sha256(std::string_view key, std::string_view message) {
  std::string digest(kProofBytes, '\0');
  unsigned int length = 0;
  const unsigned char* done =
      ::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(message.data()), message.size(),
             reinterpret_cast<unsigned char*>(digest.data()), &length);
  SHOAL_ASSERT(done != nullptr && length == kProofBytes);
  return digest;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string proof_of(Prover prover, const Credentials& credentials, std::string_view dialler_hello,
                     std::string_view acceptor_hello) {
  // The hellos are of fixed size, so this concatenation can be read in one way only.
  std::string message(prover == Prover::kDialler ? "shoal 1 dialler:" : "shoal 1 acceptor");
  message.append(dialler_hello).append(acceptor_hello).append(credentials.job);
  return hmac_sha256(credentials.secret, message);
}

}  // namespace shoal::bootstrap
