#include "nccl/drop_in/communicator.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>

#include "shoal/error.h"

namespace shoal::nccl {

namespace {

/// The last tag there is: a program's messages all have tag 0.
constexpr std::int64_t kTag = (std::int64_t{1} << 24) - 1;

/// Sends `mine` to all other ranks of the list, gets theirs; all have the same length.
void exchange(Communicator& parent, const std::vector<Rank>& ranks, ConstBuffer mine,
              std::byte* all) {
  std::vector<Message> messages;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    std::byte* const place = all + static_cast<std::int64_t>(i) * mine.bytes.value;
    if (ranks[i] == parent.rank()) {
      std::copy_n(static_cast<const std::byte*>(mine.data), mine.bytes.value, place);
      continue;
    }
    Message send, receive;
    send.peer = receive.peer = ranks[i];
    send.tag = receive.tag = kTag;
    send.source = mine;
    receive.sends = false;
    receive.target = {place, mine.bytes};
    messages.push_back(receive);
    messages.push_back(send);
  }
  for (Work& work : parent.batch(messages)) work.wait();
}

/// Of different lengths: the lengths first.
std::vector<std::string> exchange_texts(Communicator& parent, const std::vector<Rank>& ranks,
                                        const std::string& mine) {
  const std::int64_t length = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> lengths(ranks.size());
  exchange(parent, ranks, {&length, {sizeof length}}, reinterpret_cast<std::byte*>(lengths.data()));
  const std::int64_t longest = *std::ranges::max_element(lengths);
  std::string padded = mine;
  padded.resize(static_cast<std::size_t>(longest));
  std::string all(padded.size() * ranks.size(), '\0');
  if (longest > 0) {
    exchange(parent, ranks, {padded.data(), {longest}}, reinterpret_cast<std::byte*>(all.data()));
  }
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    texts.push_back(all.substr(i * padded.size(), static_cast<std::size_t>(lengths[i])));
  }
  return texts;
}

}  // namespace

ncclComm& checked(ncclComm_t comm, const char* function) {
  if (comm == nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                std::string(function) + ": the communicator is null; was it destroyed?");
  }
  return *comm;
}

ncclComm* join(int size, const ncclUniqueId& id, int rank) {
  const MeetingPlace place = read_unique_id(id);
  if (size < 1 || rank < 0 || rank >= size) {
    throw Error(ErrorCode::kInvalidArgument, "ncclCommInitRank: rank " + std::to_string(rank) +
                                                 " of " + std::to_string(size) + " makes no sense");
  }
  Options options;
  options.rank = rank;
  options.size = size;
  options.store = place.store;
  options.secret = place.secret;
  options.job = "nccl-" + place.store;
  if (rank == 0) {
    options.store_socket = take_listener(place);
    if (options.store_socket < 0 && size > 1) {
      throw Error(ErrorCode::kInvalidArgument,
                  "ncclCommInitRank: rank 0 has to be in the process that called "
                  "ncclGetUniqueId(), and an id makes one communicator");
    }
  }
  auto* comm = new ncclComm(Communicator::init(options));
  comm->device = current_device();
  return comm;
}

ncclComm* make_group(ncclComm& parent, const std::vector<Rank>& ranks) {
  auto* comm = new ncclComm(parent.comm.group(
      ranks, [&](const std::string& mine) { return exchange_texts(parent.comm, ranks, mine); }));
  comm->device = parent.device;
  return comm;
}

int current_device() noexcept {
  using GetDevice = int (*)(int*);
  const auto get = reinterpret_cast<GetDevice>(::dlsym(RTLD_DEFAULT, "cudaGetDevice"));
  int device = 0;
  return get != nullptr && get(&device) == 0 ? device : 0;
}

}  // namespace shoal::nccl
