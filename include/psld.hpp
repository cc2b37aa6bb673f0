/*
 * psld for C++17: the C ABI of psld.h with owners, spans and exceptions. Header only, and it adds no algorithm.
 *
 *     auto model = psld::Model::load("model.onnx");
 *     auto samples = model.sample(16, {{"sampler", "sscs"}, {"nfe", "50"}, {"seed", "7"}});
 *
 * Handles are move-only and free themselves, in any order. A failed call throws psld::Error. With PSLD_NO_EXCEPTIONS
 * defined (and -fno-exceptions, say) nothing is thrown: each function that can fail returns a psld::Outcome<T> instead
 * of a T, which is a T or an Error. Threads are as in psld.h: a Run is one thread at a time, all else is shared.
 */
#ifndef PSLD_HPP
#define PSLD_HPP

#include <psld.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace psld {

/* The two modes differ in the types that functions return: their names must, too, so that a program may have both. */
#if defined(PSLD_NO_EXCEPTIONS)
inline namespace outcomes {
#else
inline namespace exceptions {
#endif

/* Why a call failed: a status for programs, sentences for people. */
class Error : public std::exception {
 public:
  Error(std::int32_t status, std::string message, std::string hint = {})
      : status_(status), message_(std::move(message)), hint_(std::move(hint)) {}

  /* Takes what a C function left. */
  static Error take(std::int32_t status, psld_error *error) {
    if (!error) return Error(status, psld_status_name(status));
    Error taken(status, psld_error_message(error), psld_error_hint(error));
    psld_error_free(error);
    return taken;
  }

  /* One of psld_status. */
  std::int32_t status() const noexcept { return status_; }
  const char *what() const noexcept override { return message_.c_str(); }
  const std::string &message() const noexcept { return message_; }
  /* What can be done about it; may be empty. */
  const std::string &hint() const noexcept { return hint_; }

 private:
  std::int32_t status_;
  std::string message_, hint_;
};

#if defined(PSLD_NO_EXCEPTIONS)
/* A T or an Error. */
template <class T> class [[nodiscard]] Outcome {
 public:
  Outcome(T value) : value_(std::move(value)) {}
  Outcome(Error error) : error_(std::move(error)) {}
  explicit operator bool() const noexcept { return value_.has_value(); }
  T &operator*() & { return *value_; }
  const T &operator*() const & { return *value_; }
  T &&operator*() && { return std::move(*value_); }
  T *operator->() { return &*value_; }
  const T *operator->() const { return &*value_; }
  const Error &error() const { return *error_; }

 private:
  std::optional<T> value_;
  std::optional<Error> error_;
};

template <> class [[nodiscard]] Outcome<void> {
 public:
  Outcome() = default;
  Outcome(Error error) : error_(std::move(error)) {}
  explicit operator bool() const noexcept { return !error_.has_value(); }
  const Error &error() const { return *error_; }

 private:
  std::optional<Error> error_;
};
#else
template <class T> using Outcome = T;
#endif

/* Some elements of somebody else's: std::span, for C++17. */
template <class T> class View {
 public:
  View() = default;
  View(T *data, std::size_t size) : data_(data), size_(size) {}
  template <class C, class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<C &>().data()), T *>>>
  View(C &&container) : data_(container.data()), size_(container.size()) {}
  T *data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  T *begin() const noexcept { return data_; }
  T *end() const noexcept { return data_ + size_; }
  T &operator[](std::size_t i) const { return data_[i]; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

/* psld_dtype of float and double. */
template <class T> inline constexpr std::int32_t dtype_of = -1;
template <> inline constexpr std::int32_t dtype_of<float> = PSLD_DTYPE_F32;
template <> inline constexpr std::int32_t dtype_of<double> = PSLD_DTYPE_F64;

namespace detail {

#if !defined(PSLD_NO_EXCEPTIONS)
/* What a network of the caller's threw within the call that is under way on this thread. */
inline thread_local std::exception_ptr thrown;
#endif

template <class F> std::optional<Error> call(F &&f) {
  psld_error *error = nullptr;
#if !defined(PSLD_NO_EXCEPTIONS)
  thrown = nullptr;
  const std::int32_t status = f(&error);
  if (thrown && status == PSLD_STATUS_RUNTIME_FAILURE) {
    psld_error_free(error);
    std::rethrow_exception(std::exchange(thrown, nullptr));
  }
#else
  const std::int32_t status = f(&error);
#endif
  if (status == PSLD_STATUS_OK) return std::nullopt;
  return Error::take(status, error);
}

#if defined(PSLD_NO_EXCEPTIONS)
template <class T> Outcome<T> fail(Error error) { return Outcome<T>(std::move(error)); }
inline Outcome<void> done(std::optional<Error> error) {
  return error ? Outcome<void>(std::move(*error)) : Outcome<void>();
}
#else
template <class T> [[noreturn]] T fail(Error error) { throw std::move(error); }
inline void done(std::optional<Error> error) {
  if (error) throw std::move(*error);
}
#endif

/* A function of the size-query form, to its text. */
template <class F> Outcome<std::string> text(F &&f) {
  std::size_t size = 0;
  if (auto e = call([&](psld_error **err) { return f(nullptr, 0, &size, err); }))
    return fail<std::string>(std::move(*e));
  std::string text(size, '\0');
  if (auto e = call([&](psld_error **err) { return f(text.data(), size, nullptr, err); }))
    return fail<std::string>(std::move(*e));
  text.resize(size - 1);
  return text;
}

template <class F> Outcome<std::vector<std::int64_t>> sizes(F &&f) {
  using Sizes = std::vector<std::int64_t>;
  std::size_t count = 0;
  if (auto e = call([&](psld_error **err) { return f(nullptr, 0, &count, err); })) return fail<Sizes>(std::move(*e));
  Sizes sizes(count);
  if (auto e = call([&](psld_error **err) { return f(sizes.data(), count, nullptr, err); }))
    return fail<Sizes>(std::move(*e));
  return sizes;
}

inline std::size_t product(const std::vector<std::int64_t> &sizes) {
  std::size_t product = 1;
  for (std::int64_t size : sizes) product *= static_cast<std::size_t>(size);
  return product;
}

/* The owner of a handle: move-only. */
template <class T, auto Free> class Handle {
 public:
  Handle() = default;
  explicit Handle(T *handle) noexcept : handle_(handle) {}
  Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle &operator=(Handle &&other) noexcept {
    if (this != &other) {
      Free(handle_);
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Handle() { Free(handle_); }
  /* The handle, for functions of psld.h; it stays owned. */
  T *get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != nullptr; }

 private:
  T *handle_ = nullptr;
};

}  // namespace detail

/* The C structs, with their defaults. */
struct Progress : psld_progress {
  Progress() : psld_progress() { psld_progress_init(this, sizeof(psld_progress)); }
};
struct ModelOptions : psld_model_options {
  ModelOptions() : psld_model_options() { psld_model_options_init(this, sizeof(psld_model_options)); }
};
struct EngineOptions : psld_engine_options {
  EngineOptions() : psld_engine_options() { psld_engine_options_init(this, sizeof(psld_engine_options)); }
};
struct RunOptions : psld_run_options {
  RunOptions() : psld_run_options() { psld_run_options_init(this, sizeof(psld_run_options)); }
  explicit RunOptions(std::int64_t samples) : RunOptions() { n = samples; }
  /* Of a sampler with `guidance`: class and scale of each sample, or one for all, and a guidance network (Model::get) where
   * the model is not its own, which lives until the run has started. Classes and scales are copied. */
  RunOptions &guided(View<const std::int64_t> classes, View<const double> weights, const psld_model *network = nullptr) {
    auto own = std::make_shared<Conditions>();
    own->classes.assign(classes.begin(), classes.end());
    own->weights.assign(weights.begin(), weights.end());
    labels = own->classes.data();
    labels_len = own->classes.size();
    scales = own->weights.data();
    scales_len = own->weights.size();
    guide = network;
    conditions_ = std::move(own);
    return *this;
  }

 private:
  struct Conditions {
    std::vector<std::int64_t> classes;
    std::vector<double> weights;
  };
  std::shared_ptr<const Conditions> conditions_;  // what labels and scales point to, in copies, too
};

namespace detail {

/* Whether a text is JSON as it stands: a number, truth value, null, string, array or object, and nothing else. */
class Json {
 public:
  static bool is(const char *text) {
    Json json(text);
    return json.value(0) && json.end();
  }

 private:
  explicit Json(const char *text) : at_(text) {}
  void space() {
    while (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r') ++at_;
  }
  bool end() {
    space();
    return *at_ == 0;
  }
  bool is(char c) {
    space();
    if (*at_ != c) return false;
    ++at_;
    return true;
  }
  bool word(const char *word) {
    const std::size_t length = std::strlen(word);
    if (std::strncmp(at_, word, length) != 0) return false;
    at_ += length;
    return true;
  }
  bool digits() {
    const char *from = at_;
    while (*at_ >= '0' && *at_ <= '9') ++at_;
    return at_ > from;
  }
  bool number() {
    if (*at_ == '-') ++at_;
    if (*at_ == '0') ++at_;
    else if (!digits()) return false;
    if (*at_ == '.' && (++at_, !digits())) return false;
    if (*at_ == 'e' || *at_ == 'E') {
      ++at_;
      if (*at_ == '+' || *at_ == '-') ++at_;
      return digits();
    }
    return true;
  }
  bool string() {
    if (!is('"')) return false;
    for (; *at_ != '"'; ++at_) {
      if (static_cast<unsigned char>(*at_) < 0x20) return false;
      if (*at_ != '\\') continue;
      ++at_;
      if (*at_ == 'u') {
        for (int i = 0; i < 4; i++) {
          ++at_;
          const bool hex = (*at_ >= '0' && *at_ <= '9') || (*at_ >= 'a' && *at_ <= 'f') || (*at_ >= 'A' && *at_ <= 'F');
          if (!hex) return false;
        }
      } else if (*at_ == 0 || !std::strchr("\"\\/bfnrt", *at_)) {
        return false;
      }
    }
    ++at_;
    return true;
  }
  bool value(int depth) {
    space();
    /* As deep as the library reads. */
    if (depth > 100) return false;
    switch (*at_) {
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      case '"': return string();
      case '[': return list(depth, ']', false);
      case '{': return list(depth, '}', true);
      default: return number();
    }
  }
  bool list(int depth, char close, bool named) {
    ++at_;
    if (is(close)) return true;
    do {
      if (named && !(string() && is(':'))) return false;
      if (!value(depth + 1)) return false;
    } while (is(','));
    return is(close);
  }

  const char *at_;
};

/* A text as a string of JSON. */
inline std::string quoted(const std::string &text) {
  static const char hex[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      quoted += "\\u00";
      quoted += hex[c >> 4];
      quoted += hex[c & 15];
      continue;
    }
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

/* A text that C would read only up to a NUL within it. */
inline std::optional<Error> check(const std::string &text, const char *what) {
  if (text.find('\0') == std::string::npos) return std::nullopt;
  return Error(PSLD_STATUS_INVALID_ARGUMENT, std::string(what) + " has a NUL in it");
}

}  // namespace detail

/* Options of a sampler: those of psld_sampler_options, or pairs of a JSON name and a value, such as {"sampler", "em"}
 * and {"nfe", "50"}. A value that is JSON stands as it is; any other is a string. */
struct SamplerOptions : psld_sampler_options {
  SamplerOptions() : psld_sampler_options() { psld_sampler_options_init(this, sizeof(psld_sampler_options)); }
  SamplerOptions(const psld_sampler_options &options) : psld_sampler_options(options) {}
  SamplerOptions(std::initializer_list<std::pair<const char *, const char *>> pairs) : SamplerOptions() {
    json_ = std::make_shared<std::string>("{");
    for (const auto &[name, value] : pairs) {
      if (json_->size() > 1) *json_ += ", ";
      *json_ += detail::quoted(name) + ": " + (detail::Json::is(value) ? std::string(value) : detail::quoted(value));
    }
    *json_ += "}";
    options_json = json_->c_str();
  }

 private:
  std::shared_ptr<std::string> json_;  // what options_json points to, in copies, too
};

/* Samples and their shape, [n, C, ...]. */
template <class T> struct Array {
  std::vector<T> values;
  std::vector<std::int64_t> shape;
};

/* Bits per dimension of each image, and from two probes on their standard errors. */
struct Likelihood {
  std::vector<double> bits, errors;
};

/* What a network of the caller's computes, of `n` samples: psld_evaluation with T for its type. */
template <class T> struct Evaluation {
  std::int64_t n = 0;
  View<const T> z;                 /* [n, k*C, ...], or [n, C, ...] where the network has a process of its own */
  View<const double> t;            /* [n] */
  View<const std::int64_t> labels; /* [n]; empty where the spec has no label input */
  View<T> out;                     /* receives what the spec says the network predicts */
  View<const std::int64_t> indices; /* [n]: which sample of its run each row is, as that was started */
  View<const std::uint64_t> tags;   /* [n]: RunOptions::tag of each row's run */
};

/* Is told of each step; `false` stops the work with PSLD_STATUS_CANCELLED. */
using OnProgress = std::function<bool(const psld_progress &)>;
/* Is told of the data estimate, too. */
using OnPreview = std::function<bool(const psld_progress &, View<const float> x0)>;

namespace detail {

/* A callback's other side. An exception does not cross the library: it waits here. */
struct Listener {
  const OnProgress *progress = nullptr;
  const OnPreview *preview = nullptr;
#if !defined(PSLD_NO_EXCEPTIONS)
  std::exception_ptr thrown;
#endif

  template <class F> std::int32_t hear(F &&f) {
#if defined(PSLD_NO_EXCEPTIONS)
    return f() ? 0 : 1;
#else
    try {
      return f() ? 0 : 1;
    } catch (...) {
      thrown = std::current_exception();
      return 1;
    }
#endif
  }
  void rethrow() {
#if !defined(PSLD_NO_EXCEPTIONS)
    if (thrown) std::rethrow_exception(thrown);
#endif
  }
};

inline std::int32_t on_progress(void *user, const psld_progress *p) {
  auto *listener = static_cast<Listener *>(user);
  return listener->hear([&] { return (*listener->progress)(*p); });
}

/* A view of an array, for the length of a call. */
template <class T> psld_tensor tensor(const Array<T> &array) {
  static_assert(dtype_of<T> >= 0, "float or double");
  psld_tensor tensor;
  psld_tensor_init(&tensor, sizeof tensor);
  tensor.data = array.values.data();
  tensor.dtype = dtype_of<T>;
  tensor.ndim = static_cast<std::int32_t>(array.shape.size());
  tensor.shape = array.shape.data();
  return tensor;
}

/* An array of which `shape` writes the sizes, as a function of the size-query form, and `read` the elements. */
template <class T, class S, class R> Outcome<Array<T>> array(S &&shape, R &&read) {
  static_assert(dtype_of<T> >= 0, "float or double");
  Array<T> out;
  std::size_t dims = 0;
  auto e = call([&](psld_error **err) { return shape(nullptr, 0, &dims, err); });
  out.shape.resize(dims);
  if (!e) e = call([&](psld_error **err) { return shape(out.shape.data(), dims, nullptr, err); });
  if (!e) {
    out.values.resize(product(out.shape));
    e = call([&](psld_error **err) { return read(out.values.data(), out.values.size(), err); });
  }
  if (e) return fail<Array<T>>(std::move(*e));
  return out;
}

/* Why a network failed, for the library's message, which has room for so much of it. */
inline std::int32_t failed(const psld_evaluation *e, const char *why) noexcept {
  if (e->message_capacity > 0) {
    const std::size_t length = std::min(std::strlen(why), e->message_capacity - 1);
    std::memcpy(e->message, why, length);
    e->message[length] = 0;
  }
  return 1;
}

/* Calls a network for states of type T; 0, or what the library takes for a failure. */
template <class T, class F> std::int32_t evaluate(F &network, const psld_evaluation *e) {
  if constexpr (std::is_invocable_v<F &, const Evaluation<T> &>) {
    Evaluation<T> given;
    const auto n = static_cast<std::size_t>(e->n);
    given.n = e->n;
    given.z = View<const T>(static_cast<const T *>(e->z), e->z_elements);
    given.t = View<const double>(e->t, n);
    if (e->labels) given.labels = View<const std::int64_t>(e->labels, n);
    given.out = View<T>(static_cast<T *>(e->out), e->out_elements);
    given.indices = View<const std::int64_t>(e->indices, n);
    given.tags = View<const std::uint64_t>(e->tags, n);
    constexpr bool nothing = std::is_void_v<std::invoke_result_t<F &, const Evaluation<T> &>>;
#if defined(PSLD_NO_EXCEPTIONS)
    if constexpr (!nothing) {
      const Outcome<void> done = network(given);
      return done ? 0 : failed(e, done.error().what());
    }
#else
    static_assert(nothing, "a network returns nothing: it throws where it fails");
#endif
    if constexpr (nothing) network(given);
    return 0;
  } else {
    return failed(e, sizeof(T) == 4 ? "it computes in double precision only: run with PSLD_DTYPE_F64"
                                    : "it computes in single precision only: run with PSLD_DTYPE_F32");
  }
}

template <class F> std::int32_t on_network(void *user, const psld_evaluation *e) noexcept {
  F &network = *static_cast<F *>(user);
#if !defined(PSLD_NO_EXCEPTIONS)
  try {
    return e->dtype == PSLD_DTYPE_F64 ? evaluate<double>(network, e) : evaluate<float>(network, e);
  } catch (const std::exception &exception) {
    thrown = std::current_exception();
    return failed(e, exception.what());
  } catch (...) {
    thrown = std::current_exception();
    return failed(e, "an exception that is no std::exception");
  }
#else
  return e->dtype == PSLD_DTYPE_F64 ? evaluate<double>(network, e) : evaluate<float>(network, e);
#endif
}

template <class F> void on_release(void *user) noexcept { delete static_cast<F *>(user); }

inline std::int32_t on_preview(void *user, const psld_progress *p, const float *x0, std::size_t elements) {
  auto *listener = static_cast<Listener *>(user);
  return listener->hear([&] { return (*listener->preview)(*p, View<const float>(x0, elements)); });
}

}  // namespace detail

/* A request to stop: any thread. */
class Cancel : public detail::Handle<psld_cancel, psld_cancel_free> {
 public:
  using Handle::Handle;
  static Outcome<Cancel> create() {
    psld_cancel *cancel = nullptr;
    if (auto e = detail::call([&](psld_error **err) { return psld_cancel_create(&cancel, err); }))
      return detail::fail<Cancel>(std::move(*e));
    return Cancel(cancel);
  }
  void cancel() const noexcept { psld_cancel_cancel(get()); }
};

/* ONNX Runtime, loaded. */
class Runtime : public detail::Handle<psld_runtime, psld_runtime_free> {
 public:
  using Handle::Handle;
  /* nullptr: the one that psld_runtime_load finds. */
  static Outcome<Runtime> load(const char *path = nullptr) {
    psld_runtime *runtime = nullptr;
    if (auto e = detail::call([&](psld_error **err) { return psld_runtime_load(path, &runtime, err); }))
      return detail::fail<Runtime>(std::move(*e));
    return Runtime(runtime);
  }
  Outcome<std::string> info_json() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_runtime_info_json(get(), b, c, n, e);
    });
  }
};

/* A network with its spec: any thread. */
class Model : public detail::Handle<psld_model, psld_model_free> {
 public:
  using Handle::Handle;

  static Outcome<Model> load(const std::string &path, const psld_model_options &options = ModelOptions()) {
    if (auto e = detail::check(path, "path")) return detail::fail<Model>(std::move(*e));
    psld_model *model = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_model_load_file(nullptr, path.c_str(), &options, &model, err);
        }))
      return detail::fail<Model>(std::move(*e));
    return Model(model);
  }

  static Outcome<Model> load_memory(View<const unsigned char> bytes,
                                    const psld_model_options &options = ModelOptions()) {
    psld_model *model = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_model_load_memory(nullptr, bytes.data(), bytes.size(), &options, &model, err);
        }))
      return detail::fail<Model>(std::move(*e));
    return Model(model);
  }

  /* A network that the program computes: `network` is called with Evaluation<float>, or Evaluation<double> where a run has
   * that precision (a lambda with `const auto &` takes both), on a thread that steps a run of the model, on several at once
   * where several are stepped, and on an engine's own. What it throws comes out of the step; to who waits for a request
   * of an engine it is an Error with its text. Without exceptions it may return an Outcome<void>. `name` tells it from other
   * networks: change it with the weights. */
  template <class F>
  static Outcome<Model> create(F network, const std::string &spec_json, const std::string &name,
                               psld_model_options options = ModelOptions()) {
    static_assert(std::is_invocable_v<F &, const Evaluation<float> &> ||
                      std::is_invocable_v<F &, const Evaluation<double> &>,
                  "a function of an Evaluation<float> or an Evaluation<double>");
    for (auto e : {detail::check(spec_json, "spec_json"), detail::check(name, "name")})
      if (e) return detail::fail<Model>(std::move(*e));
    options.spec_json = spec_json.c_str();
    auto owned = std::make_unique<F>(std::move(network));
    psld_model *model = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          /* From here on it is the library's, also where that fails. */
          return psld_model_create(detail::on_network<F>, owned.release(), detail::on_release<F>, name.c_str(), &options,
                                   &model, err);
        }))
      return detail::fail<Model>(std::move(*e));
    return Model(model);
  }

  Outcome<std::string> info_json() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_model_info_json(get(), b, c, n, e);
    });
  }

  /* Sampler, order and grid for this network, as JSON for SamplerOptions::options_json: psld_model_probe. `options_json` says the
   * number of calls, {"nfe": 10}, and what else the samples are drawn with. */
  Outcome<std::string> probe(const std::string &options_json, View<const std::int64_t> labels = {},
                             const OnProgress &progress = nullptr, const psld_cancel *cancel = nullptr) const;

  /* The shape of one sample, [C, ...] or [k*C, ...]. */
  Outcome<std::vector<std::int64_t>> shape(std::int32_t what = PSLD_OUTPUT_DATA) const {
    return detail::sizes([&](std::int64_t *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_model_shape(get(), what, b, c, n, e);
    });
  }

  /* Latents on the way through others, [m, k*C, ...]: place 0.5 is half way from the first to the second. */
  template <class T> Outcome<Array<T>> interpolate(const Array<T> &latents, View<const double> at) const {
    const psld_tensor tensor = detail::tensor(latents);
    Array<T> out;
    out.shape = latents.shape;
    if (!out.shape.empty()) out.shape[0] = static_cast<std::int64_t>(at.size());
    out.values.resize(detail::product(out.shape));
    T none{};
    if (auto e = detail::call([&](psld_error **err) {
          return psld_model_interpolate(get(), &tensor, at.data(), at.size(), dtype_of<T>,
                                        out.values.empty() ? &none : out.values.data(), out.values.size(), err);
        }))
      return detail::fail<Array<T>>(std::move(*e));
    return out;
  }

  /* Likelihoods of images, [n, C, ...] in the data's range: psld_likelihood. `run` may have labels, batch and the like; `n` and
   * `from_image` are the images'. Options without a sampler are "gddim"'s. */
  template <class T>
  Outcome<Likelihood> likelihood(const Array<T> &images, std::int32_t probes = 1, bool dequantise = false,
                                 const SamplerOptions &options = {}, psld_run_options run = RunOptions(),
                                 const OnProgress &progress = nullptr) const;

  /* `n` samples, the whole way at once; the state has the precision of T, too. */
  template <class T = float>
  Outcome<Array<T>> sample(std::int64_t n, const SamplerOptions &options = {},
                           const OnProgress &progress = nullptr) const;
};

/* A compiled sampler: any thread. */
class Sampler : public detail::Handle<psld_sampler, psld_sampler_free> {
 public:
  using Handle::Handle;

  static Outcome<Sampler> create(const Model &model, const SamplerOptions &options = {}) {
    psld_sampler *sampler = nullptr;
    if (auto e = detail::call(
            [&](psld_error **err) { return psld_sampler_create(model.get(), &options, &sampler, err); }))
      return detail::fail<Sampler>(std::move(*e));
    return Sampler(sampler);
  }

  static Outcome<Sampler> from_plan(const Model &model, const std::string &plan_json) {
    if (auto e = detail::check(plan_json, "plan_json")) return detail::fail<Sampler>(std::move(*e));
    psld_sampler *sampler = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_sampler_create_from_plan(model.get(), plan_json.c_str(), &sampler, err);
        }))
      return detail::fail<Sampler>(std::move(*e));
    return Sampler(sampler);
  }

  Outcome<std::string> plan_json() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_sampler_plan_json(get(), b, c, n, e);
    });
  }
  Outcome<std::string> hash() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_sampler_hash(get(), b, c, n, e);
    });
  }
};

class Run;

/* The steps of a run, as a range: `for (const auto &p : run.steps()) draw(p.step, p.of);`. Each turn is one step. */
class Steps {
 public:
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Progress;
    using difference_type = std::ptrdiff_t;
    using pointer = const Progress *;
    using reference = const Progress &;
    iterator() = default;
    explicit iterator(Steps *steps) : steps_(steps) { ++*this; }
    reference operator*() const { return steps_->progress_; }
    pointer operator->() const { return &steps_->progress_; }
    iterator &operator++() {
      if (!steps_->advance()) steps_ = nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(const iterator &other) const { return steps_ == other.steps_; }
    bool operator!=(const iterator &other) const { return steps_ != other.steps_; }

   private:
    Steps *steps_ = nullptr;
  };

  explicit Steps(psld_run *run) : run_(run) {}
  iterator begin() { return iterator(this); }
  iterator end() { return {}; }
  /* Why the range ended early, without exceptions. */
  const std::optional<Error> &error() const { return error_; }

 private:
  bool advance() {
    if (progress_.done) return false;
    const bool first = progress_.samples == 0;
    if (first && psld_run_step(run_, 0, &progress_, nullptr) == PSLD_STATUS_OK && progress_.done) return false;
    error_ = detail::call([&](psld_error **err) { return psld_run_step(run_, 1, &progress_, err); });
#if !defined(PSLD_NO_EXCEPTIONS)
    if (error_) throw *error_;
#endif
    return !error_;
  }
  psld_run *run_;
  Progress progress_;
  std::optional<Error> error_;
};

/* One batch of samples in flight: one thread at a time. */
class Run : public detail::Handle<psld_run, psld_run_free> {
 public:
  using Handle::Handle;

  static Outcome<Run> start(const Model &model, const Sampler &sampler,
                            const psld_run_options &options = RunOptions()) {
    psld_run *run = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_run_start(model.get(), sampler.get(), &options, &run, err);
        }))
      return detail::fail<Run>(std::move(*e));
    return Run(run);
  }

  /* What save() gave, made a run again; `guide` is the guidance network that it had. */
  static Outcome<Run> load(const Model &model, const Sampler &sampler, View<const unsigned char> bytes,
                           const Model *guide = nullptr) {
    psld_run *run = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_run_load_guided(model.get(), sampler.get(), guide ? guide->get() : nullptr, bytes.data(),
                                      bytes.size(), &run, err);
        }))
      return detail::fail<Run>(std::move(*e));
    return Run(run);
  }

  /* At most `max_steps` steps; 0 tells how far the run is. */
  Outcome<Progress> step(std::int32_t max_steps = 1) {
    Progress progress;
    if (auto e = detail::call([&](psld_error **err) { return psld_run_step(get(), max_steps, &progress, err); }))
      return detail::fail<Progress>(std::move(*e));
    return progress;
  }

  /* How far it is, also after a failure. */
  Outcome<Progress> progress() {
    Progress progress;
    auto e = detail::call([&](psld_error **err) { return psld_run_step(get(), 0, &progress, err); });
    /* A run has samples; where it can be read, they are known. */
    if (e && progress.samples == 0) return detail::fail<Progress>(std::move(*e));
    return progress;
  }

  /* To the end, one step a turn. */
  Steps steps() { return Steps(get()); }

  /* To the end, with callbacks; previews every so many steps need RunOptions::previews. */
  Outcome<Progress> finish(const OnProgress &progress = nullptr, const OnPreview &preview = nullptr,
                           std::int32_t preview_every = 1) {
    psld_observer observer;
    psld_observer_init(&observer, sizeof observer);
    detail::Listener listener;
    listener.progress = &progress;
    listener.preview = &preview;
    observer.user = &listener;
    if (progress) observer.progress = detail::on_progress;
    if (preview) observer.preview = detail::on_preview;
    observer.preview_every = preview_every;
    Progress end;
    auto e = detail::call([&](psld_error **err) { return psld_run_finish(get(), &observer, &end, err); });
    listener.rethrow();
    if (e) return detail::fail<Progress>(std::move(*e));
    return end;
  }

  /* Another deadline (0: none) and token (nullptr: none) for an interrupted run. */
  Outcome<void> resume(double deadline_seconds = 0.0, const Cancel *cancel = nullptr) {
    return detail::done(detail::call([&](psld_error **err) {
      return psld_run_resume(get(), cancel ? cancel->get() : nullptr, deadline_seconds, err);
    }));
  }

  /* Makes sample i what sample indices[i] was, between two steps. `seeds`, as many, are theirs from here on; without any
     they follow the samples. */
  Outcome<void> gather(View<const std::int64_t> indices, View<const std::uint64_t> seeds = {}) {
    if (seeds.size() != 0 && seeds.size() != indices.size())
      return detail::done(Error(PSLD_STATUS_INVALID_ARGUMENT, "gather: expected as many seeds as indices"));
    return detail::done(detail::call([&](psld_error **err) {
      return psld_run_gather(get(), indices.data(), indices.size(), seeds.size() ? seeds.data() : nullptr, err);
    }));
  }

  Outcome<std::vector<std::int64_t>> shape(std::int32_t what = PSLD_OUTPUT_DATA) const {
    return detail::sizes([&](std::int64_t *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_run_shape(get(), what, b, c, n, e);
    });
  }

  /* Into the caller's memory: exactly the elements of shape(). */
  template <class T> Outcome<void> read_into(View<T> out, std::int32_t what = PSLD_OUTPUT_DATA) const {
    static_assert(dtype_of<T> >= 0, "float or double");
    return detail::done(detail::call([&](psld_error **err) {
      return psld_run_read(get(), what, dtype_of<T>, out.data(), out.size(), err);
    }));
  }

  template <class T = float> Outcome<Array<T>> read(std::int32_t what = PSLD_OUTPUT_DATA) const {
    return detail::array<T>(
        [&](std::int64_t *b, std::size_t c, std::size_t *n, psld_error **e) {
          return psld_run_shape(get(), what, b, c, n, e);
        },
        [&](T *b, std::size_t n, psld_error **e) { return psld_run_read(get(), what, dtype_of<T>, b, n, e); });
  }

  /* The run as bytes, for load(). */
  Outcome<std::vector<unsigned char>> save() const {
    using Bytes = std::vector<unsigned char>;
    std::size_t size = 0;
    if (auto e = detail::call([&](psld_error **err) { return psld_run_save(get(), nullptr, 0, &size, err); }))
      return detail::fail<Bytes>(std::move(*e));
    Bytes bytes(size);
    if (auto e = detail::call(
            [&](psld_error **err) { return psld_run_save(get(), bytes.data(), size, nullptr, err); }))
      return detail::fail<Bytes>(std::move(*e));
    return bytes;
  }

  Outcome<std::string> provenance_json() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_run_provenance_json(get(), b, c, n, e);
    });
  }
};

/* A request in an engine: any thread. One that has not ended is cancelled when it is freed. */
class Ticket : public detail::Handle<psld_ticket, psld_ticket_free> {
 public:
  using Handle::Handle;

  /* Waits for its end, for so many seconds at most: `done` says whether it came. Fails as the request did: cancelled, late,
   * with an estimate (PSLD_STATUS_PARTIAL: read PSLD_OUTPUT_X0), or what a network call failed with. */
  Outcome<Progress> wait(double seconds = std::numeric_limits<double>::infinity()) const {
    Progress progress;
    if (auto e = detail::call([&](psld_error **err) { return psld_ticket_wait(get(), seconds, &progress, err); }))
      return detail::fail<Progress>(std::move(*e));
    return progress;
  }
  Outcome<Progress> wait(std::chrono::duration<double> time) const { return wait(time.count()); }

  /* How far it is, also after a failure. */
  Outcome<Progress> progress() const {
    Progress progress;
    auto e = detail::call([&](psld_error **err) { return psld_ticket_wait(get(), 0.0, &progress, err); });
    /* A request has samples; without any there was no ticket. */
    if (e && progress.samples == 0) return detail::fail<Progress>(std::move(*e));
    return progress;
  }

  /* Asks for its end, with PSLD_STATUS_CANCELLED. */
  void cancel() const noexcept { psld_ticket_cancel(get()); }

  /* The number by which messages call it. */
  Outcome<std::uint64_t> id() const {
    std::uint64_t id = 0;
    if (auto e = detail::call([&](psld_error **err) { return psld_ticket_id(get(), &id, err); }))
      return detail::fail<std::uint64_t>(std::move(*e));
    return id;
  }

  Outcome<std::vector<std::int64_t>> shape(std::int32_t what = PSLD_OUTPUT_DATA) const {
    return detail::sizes([&](std::int64_t *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_ticket_shape(get(), what, b, c, n, e);
    });
  }

  /* Into the caller's memory: exactly the elements of shape(). */
  template <class T> Outcome<void> read_into(View<T> out, std::int32_t what = PSLD_OUTPUT_DATA) const {
    static_assert(dtype_of<T> >= 0, "float or double");
    return detail::done(detail::call([&](psld_error **err) {
      return psld_ticket_read(get(), what, dtype_of<T>, out.data(), out.size(), err);
    }));
  }

  /* Of a request that is complete; PSLD_OUTPUT_X0 at any time, of one with `previews` or `anytime`. */
  template <class T = float> Outcome<Array<T>> read(std::int32_t what = PSLD_OUTPUT_DATA) const {
    return detail::array<T>(
        [&](std::int64_t *b, std::size_t c, std::size_t *n, psld_error **e) {
          return psld_ticket_shape(get(), what, b, c, n, e);
        },
        [&](T *b, std::size_t n, psld_error **e) { return psld_ticket_read(get(), what, dtype_of<T>, b, n, e); });
  }

  Outcome<std::string> provenance_json() const {
    return detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
      return psld_ticket_provenance_json(get(), b, c, n, e);
    });
  }
};

/* A network that serves many callers: any thread. Its tickets keep it at work when it is freed; close() ends them. */
class Engine : public detail::Handle<psld_engine, psld_engine_free> {
 public:
  using Handle::Handle;

  static Outcome<Engine> create(const Model &model, const psld_engine_options &options = EngineOptions()) {
    psld_engine *engine = nullptr;
    if (auto e = detail::call(
            [&](psld_error **err) { return psld_engine_create(model.get(), &options, &engine, err); }))
      return detail::fail<Engine>(std::move(*e));
    return Engine(engine);
  }

  /* Hands in a request, of priority -10 to 10; it does not wait for the network. */
  Outcome<Ticket> submit(const Sampler &sampler, const psld_run_options &options = RunOptions(),
                         std::int32_t priority = 0) const {
    psld_ticket *ticket = nullptr;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_engine_submit(get(), sampler.get(), &options, priority, &ticket, err);
        }))
      return detail::fail<Ticket>(std::move(*e));
    return Ticket(ticket);
  }

  /* Ends what it is at, with PSLD_STATUS_CANCELLED, and takes no more; tickets can still be read. */
  Outcome<void> close() const {
    return detail::done(detail::call([&](psld_error **err) { return psld_engine_close(get(), err); }));
  }

  /* Requests, calls and samples so far: psld_engine_stats_json. */
  Outcome<std::string> stats_json() const {
    /* Not asked for its size first: it may grow in between. */
    std::string text(256, '\0');
    std::size_t size = 0;
    if (auto e = detail::call([&](psld_error **err) {
          return psld_engine_stats_json(get(), text.data(), text.size(), &size, err);
        }))
      return detail::fail<std::string>(std::move(*e));
    text.resize(size - 1);
    return text;
  }
};

template <class T>
Outcome<Likelihood> Model::likelihood(const Array<T> &images, std::int32_t probes, bool dequantise,
                                      const SamplerOptions &options, psld_run_options run,
                                      const OnProgress &progress) const {
  const psld_tensor tensor = detail::tensor(images);
  run.n = images.shape.empty() ? 0 : images.shape[0];
  run.from_image = &tensor;
  psld_sampler *made = nullptr;
  auto e = detail::call([&](psld_error **err) { return psld_sampler_create(get(), &options, &made, err); });
  const Sampler sampler(made);
  Likelihood out;
  detail::Listener listener;
  if (!e) {
    /* One more, so that there is memory to point to. */
    const std::size_t n = run.n > 0 ? static_cast<std::size_t>(run.n) : 0;
    out.bits.resize(n + 1);
    out.errors.resize(n + 1);
    listener.progress = &progress;
    e = detail::call([&](psld_error **err) {
      return psld_likelihood(get(), sampler.get(), &run, probes, dequantise ? 1 : 0, out.bits.data(),
                             probes > 1 ? out.errors.data() : nullptr, n, progress ? detail::on_progress : nullptr,
                             &listener, err);
    });
    out.bits.resize(n);
    out.errors.resize(probes > 1 ? n : 0);
  }
  listener.rethrow();
  if (e) return detail::fail<Likelihood>(std::move(*e));
  return out;
}

inline Outcome<std::string> Model::probe(const std::string &options_json, View<const std::int64_t> labels,
                                         const OnProgress &progress, const psld_cancel *cancel) const {
  detail::Listener listener;
  listener.progress = &progress;
  auto made = detail::text([&](char *b, std::size_t c, std::size_t *n, psld_error **e) {
    return psld_model_probe(get(), options_json.c_str(), labels.data(), labels.size(), cancel,
                            progress ? detail::on_progress : nullptr, &listener, b, c, n, e);
  });
  listener.rethrow();
  return made;
}

template <class T>
Outcome<Array<T>> Model::sample(std::int64_t n, const SamplerOptions &options,
                                const OnProgress &progress) const {
  static_assert(dtype_of<T> >= 0, "float or double");
  Array<T> out;
  psld_sampler *made = nullptr;
  auto e = detail::call([&](psld_error **err) { return psld_sampler_create(get(), &options, &made, err); });
  const Sampler sampler(made);
  std::size_t dims = 0;
  if (!e) e = detail::call([&](psld_error **err) {
    return psld_model_shape(get(), PSLD_OUTPUT_DATA, nullptr, 0, &dims, err);
  });
  out.shape.resize(dims + 1);
  out.shape[0] = n;
  if (!e) e = detail::call([&](psld_error **err) {
    return psld_model_shape(get(), PSLD_OUTPUT_DATA, out.shape.data() + 1, dims, nullptr, err);
  });
  detail::Listener listener;
  if (!e) {
    RunOptions run(n);
    run.precision = dtype_of<T>;
    out.values.resize(n > 0 ? detail::product(out.shape) : 0);
    T none{};
    listener.progress = &progress;
    e = detail::call([&](psld_error **err) {
      return psld_sample(get(), sampler.get(), &run, PSLD_OUTPUT_DATA, dtype_of<T>,
                         out.values.empty() ? &none : out.values.data(), out.values.size(),
                         progress ? detail::on_progress : nullptr, &listener, err);
    });
  }
  listener.rethrow();
  if (e) return detail::fail<Array<T>>(std::move(*e));
  return out;
}

}  // inline namespace
}  // namespace psld

#endif  // PSLD_HPP
