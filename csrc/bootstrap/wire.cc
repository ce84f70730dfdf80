#include "bootstrap/wire.h"

#include <algorithm>

namespace shoal::bootstrap {

const std::uint32_t kLibraryVersion = SHOAL_VERSION_NUMBER;

namespace {
constexpr std::string_view kMagic = "SHOL";
}

std::string encode(const Hello& hello) {
  Writer writer;
  for (const char letter : kMagic) writer.number(letter);
  writer.number(hello.protocol).number(static_cast<std::uint8_t>(hello.role));
  writer.number(std::uint8_t{0}).number(hello.library).number(hello.rank).number(hello.ranks);
  for (const char byte : hello.nonce) writer.number(byte);
  std::string bytes = writer.bytes();
  bytes.resize(kHelloBytes, '\0');
  return bytes;
}

std::optional<Hello> decode_hello(std::string_view bytes) {
  if (bytes.size() < kHelloBytes || !bytes.starts_with(kMagic)) return std::nullopt;
  Reader reader(bytes.substr(kMagic.size()));
  Hello hello;
  hello.protocol = reader.number<std::uint16_t>();
  hello.role = static_cast<Role>(reader.number<std::uint8_t>());
  reader.number<std::uint8_t>();
  hello.library = reader.number<std::uint32_t>();
  hello.rank = reader.number<Rank>();
  hello.ranks = reader.number<Rank>();
  for (char& byte : hello.nonce) byte = reader.number<char>();
  return hello;
}

std::string version_text(std::uint16_t protocol, std::uint32_t library) {
  return "shoal " + std::to_string(library >> 16) + "." + std::to_string(library >> 8 & 0xff) +
         "." + std::to_string(library & 0xff) + " (protocol " + std::to_string(protocol) + ")";
}

}  // namespace shoal::bootstrap
