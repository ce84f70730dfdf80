#include "shoal/communicator.h"

#include <pybind11/stl.h>

#include <optional>

#include "python/array.h"
#include "python/cuda_array.h"
#include "python/cuda_stream.h"
#include "python/cuda_view.h"
#include "python/errors.h"
#include "python/lent.h"
#include "python/small_floats.h"
#include "python/work.h"

namespace shoal::python {

namespace {

using Shape = std::vector<py::ssize_t>;

/// What an operation is of bytes that are 0 or 1: "or" is their largest, "and" their smallest.
ReduceOp logical(const char* call, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax:
    case ReduceOp::kBor:
      return ReduceOp::kMax;
    case ReduceOp::kProd:
    case ReduceOp::kMin:
    case ReduceOp::kBand:
      return ReduceOp::kMin;
    case ReduceOp::kBxor:
      return ReduceOp::kBxor;
    case ReduceOp::kAvg:
      break;
  }
  invalid(std::string(call) + ": avg of bool is not defined; pass x.astype('float32')");
}

ReduceOp parse_op(const char* call, const std::string& name, const Array& operand) {
  for (int i = 0; i < kReduceOps; ++i) {
    const auto op = static_cast<ReduceOp>(i);
    if (name_of(op) == name) return operand.logical ? logical(call, op) : op;
  }
  invalid(std::string(call) + ": op \"" + name +
          "\" is not known; sum, prod, min, max, avg, band, bor and bxor are");
}

CallOptions call_options(const std::optional<double>& timeout, bool deterministic = false) {
  CallOptions options;
  if (timeout.has_value()) {
    if (!(*timeout > 0)) invalid("timeout is in seconds and must be positive");
    options.timeout_ms = std::max<std::int64_t>(1, static_cast<std::int64_t>(*timeout * 1000));
  }
  options.deterministic = deterministic;
  return options;
}

/// `stream=` of a call.
struct OnStream {
  OnStream(const py::object& stream) : is_given(!stream.is_none()) {  // NOLINT: implicit by design
    if (is_given) handle = cuda_stream(stream);
  }
  bool is_given;
  void* handle = nullptr;  ///< the legacy default stream
};

/// An array of an operation: host memory, or CUDA's.
Array operand(const py::object& object, const char* call, const char* name, bool written,
              const OnStream& stream) {
  if (!py::isinstance<py::array>(object)) {
    std::optional<Array> array = view_cuda(object, call, name, written, stream.handle);
    if (array.has_value()) return *array;
  }
  if (stream.is_given) {
    invalid(std::string(call) + ": " + name +
            " is not CUDA memory, and stream= is for calls on CUDA memory");
  }
  return view(object, call, name, written);
}

CallOptions call_options(const Array& array, const OnStream& stream,
                         const std::optional<double>& timeout, bool deterministic = false) {
  CallOptions options = call_options(timeout, deterministic);
  options.on_stream = array.on_device;
  options.stream = stream.handle;
  return options;
}

/// Starts an operation. One on CUDA memory may have to wait for other ranks, which may be threads
/// of this interpreter.
template <class Call>
auto start(const Array& array, Call&& call) {
  if (!array.on_device) return call();
  const py::gil_scoped_release release;
  return call();
}

void require_same_dtype(const char* call, const Array& input, const Array& output) {
  if (input.on_device != output.on_device) {
    invalid(std::string(call) + ": x and out must both be CUDA memory, or both not");
  }
  if (input.dtype == output.dtype && input.logical == output.logical) return;
  invalid(std::string(call) + ": x is " + describe_dtype(input) + ", out is " +
          describe_dtype(output) + "; they must be the same");
}

void require_count(const char* call, const char* which, const Array& array, std::int64_t count) {
  if (array.count == count) return;
  invalid(std::string(call) + ": " + which + " has shape " + describe_shape(array) + " = " +
          std::to_string(array.count) + " elements, needs " + std::to_string(count));
}

/// Elements of one of `ranks` equal blocks along the first dimension.
std::int64_t block_count(const char* call, const Array& array, Rank ranks) {
  const py::ssize_t rows = array.array.ndim() > 0 ? array.array.shape(0) : 0;
  if (rows % ranks != 0 || array.array.ndim() == 0) {
    invalid(std::string(call) + ": the first dimension of shape " + describe_shape(array) +
            " is not divisible by the number of ranks, " + std::to_string(ranks));
  }
  return array.count / ranks;
}

Shape grown(const Array& array, Rank ranks) {
  Shape shape = shape_of(array);
  if (shape.empty()) return {ranks};
  shape[0] *= ranks;
  return shape;
}

Shape shrunk(const Array& array, Rank ranks) {
  Shape shape = shape_of(array);
  shape[0] /= ranks;
  return shape;
}

/// `out` as the user gave it, or a new pool array.
Array output_or_new(Communicator& comm, const char* call, const py::object& out, const Shape& shape,
                    const Array& like, const OnStream& stream) {
  if (out.is_none() && like.on_device) {
    const auto made = py::cast(empty_cuda(comm, shape, like.array.dtype(), "cuda"));
    return *view_cuda(made, call, "out", true, stream.handle);
  }
  if (out.is_none()) return empty(comm, shape, like.array.dtype());
  Array output = operand(out, call, "out", true, stream);
  require_same_dtype(call, like, output);
  return output;
}

/// Of a call with a stream the result is there for what follows on that.
py::object finish(Work work, const py::object& result, PyWork::Held held, bool async_op,
                  const OnStream& stream) {
  if (stream.is_given && !async_op) return result;
  return complete(PyWork(std::move(work), result, std::move(held)), async_op);
}

py::object barrier(Communicator& comm, bool async_op, std::optional<double> timeout,
                   const py::object& stream_object) {
  const OnStream stream(stream_object);
  Array nothing;
  nothing.on_device = stream.is_given;
  Work work = start(nothing, [&] { return comm.barrier(call_options(nothing, stream, timeout)); });
  return finish(std::move(work), py::none(), {}, async_op, stream);
}

py::object all_reduce(Communicator& comm, const py::object& x, const std::string& op,
                      const py::object& out, bool async_op, std::optional<double> timeout,
                      bool deterministic, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array input = operand(x, "all_reduce", "x", out.is_none(), stream);
  const Array output = out.is_none() ? input : operand(out, "all_reduce", "out", true, stream);
  require_same_dtype("all_reduce", input, output);
  require_count("all_reduce", "out", output, input.count);
  return finish(start(input,
                      [&] {
                        return comm.all_reduce(input.in(), output.out(), {input.count}, input.dtype,
                                               parse_op("all_reduce", op, input),
                                               call_options(input, stream, timeout, deterministic));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

void require_plain(const char* call, const py::object& out, bool async_op) {
  if (!out.is_none())
    invalid(std::string(call) + ": view=True copies nothing, so there is no out=");
  if (async_op) {
    invalid(std::string(call) +
            ": view=True is one flag round, after which nothing is left to wait "
            "for; call it without async_op");
  }
}

py::object broadcast_view(Communicator& comm, const py::object& x, Rank root,
                          std::optional<double> timeout) {
  const Array input = view(x, "broadcast", "x", false);
  const CallOptions options = call_options(timeout);
  View result;
  {
    const py::gil_scoped_release release;
    result =
        comm.broadcast_view(input.in(), {input.count}, input.dtype, root, options, check_signals());
  }
  if (comm.rank() != root) return look(std::move(result), input.array.dtype(), shape_of(input));
  mark_lent(comm, input);
  return input.object;
}

py::object all_gather_views(Communicator& comm, const py::object& x,
                            std::optional<double> timeout) {
  const Array input = view(x, "all_gather", "x", false);
  const CallOptions options = call_options(timeout);
  std::vector<View> views;
  {
    const py::gil_scoped_release release;
    views = comm.all_gather_view(input.in(), {input.count}, input.dtype, options, check_signals());
  }
  py::list arrays;
  for (Rank r = 0; r < comm.size(); ++r) {
    if (r == comm.rank()) {
      arrays.append(input.object);
    } else {
      arrays.append(look(std::move(views[r]), input.array.dtype(), shape_of(input)));
    }
  }
  mark_lent(comm, input);
  return std::move(arrays);
}

py::object broadcast(Communicator& comm, const py::object& x, Rank root, const py::object& out,
                     bool async_op, std::optional<double> timeout, bool as_view,
                     const py::object& stream_object) {
  const OnStream stream(stream_object);
  if (as_view) {
    require_plain("broadcast", out, async_op);
    return broadcast_view(comm, x, root, timeout);
  }
  const bool is_root = comm.rank() == root;
  const Array input = operand(x, "broadcast", "x", out.is_none() && !is_root, stream);
  const Array output = out.is_none() ? input : operand(out, "broadcast", "out", true, stream);
  require_same_dtype("broadcast", input, output);
  require_count("broadcast", "out", output, input.count);
  return finish(start(output,
                      [&] {
                        return comm.broadcast(input.in(), output.out(), {input.count}, input.dtype,
                                              root, call_options(output, stream, timeout));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

py::object reduce(Communicator& comm, const py::object& x, Rank root, const std::string& op,
                  const py::object& out, bool async_op, std::optional<double> timeout,
                  bool deterministic, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const bool is_root = comm.rank() == root;
  const Array input = operand(x, "reduce", "x", is_root && out.is_none(), stream);
  const Array output =
      !is_root || out.is_none() ? input : operand(out, "reduce", "out", true, stream);
  require_same_dtype("reduce", input, output);
  require_count("reduce", "out", output, input.count);
  Work work = start(input, [&] {
    return comm.reduce(input.in(), output.out(), {input.count}, input.dtype,
                       parse_op("reduce", op, input), root,
                       call_options(input, stream, timeout, deterministic));
  });
  return finish(std::move(work), is_root ? output.object : py::none(),
                {input.object, output.object}, async_op, stream);
}

py::object all_gather(Communicator& comm, const py::object& x, const py::object& out, bool async_op,
                      std::optional<double> timeout, bool as_view,
                      const py::object& stream_object) {
  const OnStream stream(stream_object);
  if (as_view) {
    require_plain("all_gather", out, async_op);
    return all_gather_views(comm, x, timeout);
  }
  const Array input = operand(x, "all_gather", "x", false, stream);
  const Array output =
      output_or_new(comm, "all_gather", out, grown(input, comm.size()), input, stream);
  require_count("all_gather", "out", output, input.count * comm.size());
  return finish(start(input,
                      [&] {
                        return comm.all_gather(input.in(), output.out(), {input.count}, input.dtype,
                                               call_options(input, stream, timeout));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

py::object reduce_scatter(Communicator& comm, const py::object& x, const std::string& op,
                          const py::object& out, bool async_op, std::optional<double> timeout,
                          bool deterministic, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array input = operand(x, "reduce_scatter", "x", false, stream);
  const std::int64_t count = block_count("reduce_scatter", input, comm.size());
  const Array output =
      output_or_new(comm, "reduce_scatter", out, shrunk(input, comm.size()), input, stream);
  require_count("reduce_scatter", "out", output, count);
  return finish(start(input,
                      [&] {
                        return comm.reduce_scatter(
                            input.in(), output.out(), {count}, input.dtype,
                            parse_op("reduce_scatter", op, input),
                            call_options(input, stream, timeout, deterministic));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

py::object all_to_all(Communicator& comm, const py::object& x, const py::object& out, bool async_op,
                      std::optional<double> timeout, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array input = operand(x, "all_to_all", "x", false, stream);
  const std::int64_t count = block_count("all_to_all", input, comm.size());
  const Array output = output_or_new(comm, "all_to_all", out, shape_of(input), input, stream);
  require_count("all_to_all", "out", output, input.count);
  return finish(start(input,
                      [&] {
                        return comm.all_to_all(input.in(), output.out(), {count}, input.dtype,
                                               call_options(input, stream, timeout));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

py::object gather(Communicator& comm, const py::object& x, Rank root, const py::object& out,
                  bool async_op, std::optional<double> timeout, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array input = operand(x, "gather", "x", false, stream);
  Work work;
  py::object result = py::none();
  if (comm.rank() == root) {
    const Array output =
        output_or_new(comm, "gather", out, grown(input, comm.size()), input, stream);
    require_count("gather", "out", output, input.count * comm.size());
    result = output.object;
    work = start(input, [&] {
      return comm.gather(input.in(), output.out(), {input.count}, input.dtype, root,
                         call_options(input, stream, timeout));
    });
  } else {
    work = start(input, [&] {
      return comm.gather(input.in(), {}, {input.count}, input.dtype, root,
                         call_options(input, stream, timeout));
    });
  }
  return finish(std::move(work), result, {input.object, result}, async_op, stream);
}

py::object scatter(Communicator& comm, const py::object& x, Rank root, const py::object& out,
                   bool async_op, std::optional<double> timeout, const py::object& stream_object) {
  const OnStream stream(stream_object);
  if (comm.rank() != root) {
    if (out.is_none()) {
      invalid("scatter: ranks other than root need out=, an array of the block they receive");
    }
    const Array output = operand(out, "scatter", "out", true, stream);
    return finish(start(output,
                        [&] {
                          return comm.scatter({}, output.out(), {output.count}, output.dtype, root,
                                              call_options(output, stream, timeout));
                        }),
                  output.object, {output.object}, async_op, stream);
  }
  if (x.is_none()) invalid("scatter: root needs x, an array of one block per rank");
  const Array input = operand(x, "scatter", "x", false, stream);
  const std::int64_t count = block_count("scatter", input, comm.size());
  const Array output =
      output_or_new(comm, "scatter", out, shrunk(input, comm.size()), input, stream);
  require_count("scatter", "out", output, count);
  return finish(start(output,
                      [&] {
                        return comm.scatter(input.in(), output.out(), {count}, input.dtype, root,
                                            call_options(output, stream, timeout));
                      }),
                output.object, {input.object, output.object}, async_op, stream);
}

Message send_message(const Array& array, Rank to, std::int64_t tag) {
  Message message;
  message.peer = to;
  message.tag = tag;
  message.source = array.in();
  message.dtype = array.dtype;
  message.sends = true;
  return message;
}

/// `from`: none is whoever sends. -1 is not, since it may be a rank that was computed.
Message recv_message(const Array& array, std::optional<Rank> from, std::int64_t tag) {
  if (from.has_value() && *from < 0) {
    invalid("recv: rank " + std::to_string(*from) +
            " is negative; to receive from whoever sends, give None");
  }
  Message message;
  message.peer = from.value_or(kAnySource);
  message.tag = tag;
  message.target = array.out();
  message.dtype = array.dtype;
  message.sends = false;
  return message;
}

py::object transfer(Communicator& comm, const Message& message, const Array& array, bool async_op,
                    std::optional<double> timeout, const OnStream& stream) {
  Work work = start(array, [&] {
    return std::move(comm.batch({&message, 1}, call_options(array, stream, timeout))[0]);
  });
  return finish(std::move(work), array.object, {array.object}, async_op, stream);
}

py::object send(Communicator& comm, const py::object& x, Rank to, std::int64_t tag, bool async_op,
                std::optional<double> timeout, const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array array = operand(x, "send", "x", false, stream);
  return transfer(comm, send_message(array, to, tag), array, async_op, timeout, stream);
}

py::object recv(Communicator& comm, const py::object& out, std::optional<Rank> from,
                std::int64_t tag, bool async_op, std::optional<double> timeout,
                const py::object& stream_object) {
  const OnStream stream(stream_object);
  const Array array = operand(out, "recv", "out", true, stream);
  return transfer(comm, recv_message(array, from, tag), array, async_op, timeout, stream);
}

/// Items are ("send" | "recv", array, peer, tag); the peer of a recv may be None.
py::list batch(Communicator& comm, const py::iterable& items, bool async_op,
               std::optional<double> timeout, const py::object& stream_object) {
  const OnStream stream(stream_object);
  std::vector<Array> arrays;
  std::vector<Message> messages;
  for (const py::handle item : items) {
    const auto parts = py::cast<py::tuple>(item);
    if (parts.size() != 4) invalid("batch: items are (\"send\" or \"recv\", array, peer, tag)");
    const auto kind = parts[0].cast<std::string>();
    if (kind != "send" && kind != "recv")
      invalid("batch: \"" + kind + "\" is neither send nor recv");
    const bool sends = kind == "send";
    arrays.push_back(operand(parts[1], "batch", kind.c_str(), !sends, stream));
    if (arrays.back().on_device != arrays.front().on_device) {
      invalid("batch: either all arrays are CUDA memory, or none; make it two batches");
    }
    const auto peer = parts[2].cast<std::optional<Rank>>();
    const auto tag = parts[3].cast<std::int64_t>();
    if (sends && !peer.has_value()) invalid("batch: a send needs the rank it goes to, not None");
    messages.push_back(sends ? send_message(arrays.back(), *peer, tag)
                             : recv_message(arrays.back(), peer, tag));
  }
  py::list results;
  if (arrays.empty()) return results;
  std::vector<Work> works = start(arrays.front(), [&] {
    return comm.batch(messages, call_options(arrays.front(), stream, timeout));
  });
  for (std::size_t i = 0; i < works.size(); ++i) {
    results.append(py::cast(PyWork(std::move(works[i]), arrays[i].object, {arrays[i].object})));
  }
  if (async_op) return results;
  py::list done;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    done.append(stream.is_given ? arrays[i].object : results[i].attr("wait")());
  }
  return done;
}

py::object empty_array(Communicator& comm, const py::object& shape, const py::object& dtype,
                       const std::string& device) {
  Shape extents;
  if (py::isinstance<py::int_>(shape)) {
    extents.push_back(shape.cast<py::ssize_t>());
  } else {
    extents = shape.cast<Shape>();
  }
  const py::dtype type = dtype_from(dtype);
  if (device == "cpu") return empty(comm, extents, type).object;
  return py::cast(empty_cuda(comm, extents, type, device));
}

py::dict pool(const Communicator& comm) {
  const PoolStatistics use = comm.pool();
  py::dict result;
  result["used_bytes"] = use.used.value;
  result["committed_bytes"] = use.committed.value;
  result["peak_bytes"] = use.peak.value;
  result["limit_bytes"] = use.limit.value;
  result["blocks"] = use.blocks;
  return result;
}

std::vector<Rank> holders(const Communicator& comm, const py::object& x) {
  const Array array = view(x, "holders", "x", false);
  static_cast<void>(was_lent(array.array));  // gives the flag back where nobody is left
  return comm.holders(array.data, array.bytes());
}

Collective parse_collective(const char* call, const std::string& name) {
  for (int i = 0; i < kCollectives; ++i) {
    if (name_of(static_cast<Collective>(i)) == name) return static_cast<Collective>(i);
  }
  invalid(std::string(call) + ": collective \"" + name + "\" is not known");
}

DataType parse_dtype(const char* call, const py::object& dtype) {
  const std::string name = text_of(dtype);
  if (name == "bool") return DataType::kUint8;
  for (int i = 0; i < kDataTypes; ++i) {
    if (name_of(static_cast<DataType>(i)) == name) return static_cast<DataType>(i);
  }
  invalid(std::string(call) + ": dtype \"" + name + "\" is not known");
}

std::string explain(const Communicator& comm, const std::string& name,
                    std::optional<std::int64_t> count, const py::object& dtype_name,
                    bool deterministic, std::optional<std::int64_t> nbytes) {
  const Collective collective = parse_collective("explain", name);
  const DataType dtype = parse_dtype("explain", dtype_name);
  if (collective == Collective::kBarrier && !nbytes.has_value()) count = count.value_or(0);
  if (count.has_value() == nbytes.has_value()) {
    invalid(
        "explain: give either count, the elements of one block, or nbytes, of the largest "
        "array of the call");
  }
  const Count elements =
      count.has_value() ? Count{*count} : comm.block_count(collective, {*nbytes}, dtype);
  return comm.explain(collective, elements, dtype, deterministic);
}

std::vector<std::string> algorithms(const Communicator& comm, const std::string& collective) {
  return comm.algorithms(parse_collective("algorithms", collective));
}

std::string algorithm(const Communicator& comm, const std::string& collective, std::int64_t count,
                      const py::object& dtype) {
  return comm.algorithm(parse_collective("algorithm", collective), {count},
                        parse_dtype("algorithm", dtype));
}

void use_algorithm(Communicator& comm, const std::string& collective,
                   const std::optional<std::string>& algorithm) {
  comm.use_algorithm(parse_collective("use_algorithm", collective), algorithm.value_or(""));
}

std::int64_t count_in(const Communicator& comm, const std::string& collective, std::int64_t nbytes,
                      const py::object& dtype) {
  return comm
      .block_count(parse_collective("block_count", collective), {nbytes},
                   parse_dtype("block_count", dtype))
      .value;
}

Communicator init(Rank rank, Rank size, const std::string& store, const std::string& secret,
                  double timeout, double init_timeout, std::int64_t pool_bytes,
                  bool progress_thread, const std::string& network,
                  const std::string& ucx_directory, const std::string& tuning) {
  Options options;
  options.rank = rank;
  options.size = size;
  options.store = store;
  options.secret = secret;
  options.timeout_ms = static_cast<std::int64_t>(timeout * 1000);
  options.init_timeout_ms = static_cast<std::int64_t>(init_timeout * 1000);
  options.pool_bytes = pool_bytes;
  options.progress_thread = progress_thread;
  options.network = network;
  options.ucx_directory = ucx_directory;
  options.tuning_file = tuning;
  if (options.timeout_ms <= 0 || options.init_timeout_ms <= 0) {
    invalid("init: timeout and init_timeout are in seconds and must be positive");
  }
  return Communicator::init(options);
}

}  // namespace

void register_communicator(py::module_& module) {
  using py::arg;
  const auto none = py::none();
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("init", &init, released, arg("rank"), arg("size"), arg("store"), arg("secret"),
             arg("timeout"), arg("init_timeout"), arg("pool_bytes"), arg("progress_thread"),
             arg("network"), arg("ucx_directory"), arg("tuning"));
  py::class_<Communicator>(module, "Communicator")
      .def_property_readonly("rank", &Communicator::rank)
      .def_property_readonly("size", &Communicator::size)
      .def_property_readonly("nodes", &Communicator::nodes)
      .def_property_readonly("id", &Communicator::id)
      .def_property_readonly("job", &Communicator::job)
      .def("barrier", &barrier, arg("async_op") = false, arg("timeout") = none,
           arg("stream") = none)
      .def("all_reduce", &all_reduce, arg("x"), arg("op") = "sum", arg("out") = none,
           arg("async_op") = false, arg("timeout") = none, arg("deterministic") = false,
           arg("stream") = none)
      .def("broadcast", &broadcast, arg("x"), arg("root") = 0, arg("out") = none,
           arg("async_op") = false, arg("timeout") = none, arg("view") = false,
           arg("stream") = none)
      .def("reduce", &reduce, arg("x"), arg("root") = 0, arg("op") = "sum", arg("out") = none,
           arg("async_op") = false, arg("timeout") = none, arg("deterministic") = false,
           arg("stream") = none)
      .def("all_gather", &all_gather, arg("x"), arg("out") = none, arg("async_op") = false,
           arg("timeout") = none, arg("view") = false, arg("stream") = none)
      .def("reduce_scatter", &reduce_scatter, arg("x"), arg("op") = "sum", arg("out") = none,
           arg("async_op") = false, arg("timeout") = none, arg("deterministic") = false,
           arg("stream") = none)
      .def("all_to_all", &all_to_all, arg("x"), arg("out") = none, arg("async_op") = false,
           arg("timeout") = none, arg("stream") = none)
      .def("gather", &gather, arg("x"), arg("root") = 0, arg("out") = none, arg("async_op") = false,
           arg("timeout") = none, arg("stream") = none)
      .def("scatter", &scatter, arg("x"), arg("root") = 0, arg("out") = none,
           arg("async_op") = false, arg("timeout") = none, arg("stream") = none)
      .def("send", &send, arg("x"), arg("to"), arg("tag") = 0, arg("async_op") = false,
           arg("timeout") = none, arg("stream") = none)
      .def("recv", &recv, arg("out"), arg("source") = none, arg("tag") = 0, arg("async_op") = false,
           arg("timeout") = none, arg("stream") = none)
      .def("batch", &batch, arg("items"), arg("async_op") = false, arg("timeout") = none,
           arg("stream") = none)
      .def("empty", &empty_array, arg("shape"), arg("dtype") = "float32", arg("device") = "cpu")
      .def("pool", &pool)
      .def(
          "in_pool",
          [](const Communicator& comm, const py::object& x) {
            const Array array = view(x, "in_pool", "x", false);
            return comm.in_pool(array.data, array.bytes());
          },
          arg("x"))
      .def("holders", &holders, arg("x"))
      .def("explain", &explain, arg("collective"), arg("count") = none, arg("dtype") = "float32",
           arg("deterministic") = false, py::kw_only(), arg("nbytes") = none)
      .def_property_readonly("_network", &Communicator::network)
      .def_property_readonly("_node_ranks", &Communicator::node_ranks)
      .def("_algorithms", &algorithms, arg("collective"))
      .def("_algorithm", &algorithm, arg("collective"), arg("count"), arg("dtype") = "float32")
      .def("_use_algorithm", &use_algorithm, arg("collective"), arg("algorithm"))
      .def("_block_count", &count_in, arg("collective"), arg("nbytes"), arg("dtype") = "float32")
      .def(
          "split",
          [](Communicator& comm, int color, int key) -> std::optional<Communicator> {
            Communicator part = comm.split(color, key);
            if (!part) return std::nullopt;
            return part;
          },
          released, arg("color"), arg("key") = 0)
      .def("abort", &Communicator::abort, released, arg("reason") = "")
      .def("finalize", &Communicator::finalize, released);
}

}  // namespace shoal::python
