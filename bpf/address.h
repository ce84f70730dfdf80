#pragma once

#include <arpa/inet.h>

#include <cstdint>
#include <string>

namespace shoal::tracer {

/// 10.0.0.1 or fd00::1, of the bytes as they are in a packet.
inline std::string address(uint16_t family, const uint8_t (&bytes)[16]) {
  char text[INET6_ADDRSTRLEN] = "?";
  inet_ntop(family, bytes, text, sizeof text);
  return text;
}

/// 10.0.0.1:80 or [fd00::1]:80.
inline std::string endpoint(uint16_t family, const uint8_t (&bytes)[16], uint16_t port) {
  const std::string host = address(family, bytes);
  return (family == AF_INET6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

}  // namespace shoal::tracer
