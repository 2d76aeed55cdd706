// What people, files and the system say to the daemon and to btd; every refusal has a sentence.
#include <sys/socket.h>

#include <cstring>

#include "fs/cli/config.h"
#include "fs/cli/mount_args.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/size.h"
#include "fs/cluster/options.h"
#include "fs/daemon/control.h"
#include "fs/daemon/daemon.h"
#include "fs/daemon/kernel_word.h"
#include "fs/daemon/notifier.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

namespace {

void run_size(Input input) {
  const auto size = cli::parse_size(text_of(input));
  if (!size) return check(!size.error().message.empty());
  check(*size <= static_cast<std::uint64_t>(INT64_MAX));
  check(!cli::format_size(*size).empty());
}

void check_options(const MountOptions& options) {
  check(options.threads <= 256 && options.spin_us >= -1);
}

void run_mount_options(Input input) {
  if (input.empty()) return;
  const auto unknown = input[0] % 2 == 0 ? cli::Unknown::kRefuse : cli::Unknown::kIgnore;
  MountOptions options;
  const Status applied = cli::apply_mount_options(text_of(input.subspan(1)), unknown, options);
  check(applied || !applied.error().message.empty());
  check_options(options);
}

void run_config(Input input) {
  const auto config = cli::parse_config(text_of(input), "fuzz");
  if (!config) return check(config.error().message.starts_with("fuzz:"));
  check_options(config->mount);
}

void run_cluster_file(Input input) {
  const auto options = cluster::parse(text_of(input), "fuzz");
  if (!options) return check(options.error().message.starts_with("fuzz"));
  check(!options->name.empty() && !options->etcd.endpoints.empty());
}

void run_mountinfo(Input input) {
  const auto mounts = parse_mountinfo(text_of(input));
  for (const auto& path : {std::optional<std::string>("/mnt/x"), std::optional<std::string>()}) {
    const auto chosen = cli::choose_mount(mounts, path);
    check(chosen || !chosen.error().message.empty());
  }
}

void run_worker_arguments(Input input) {
  const auto args = WorkerArgs::parse(text_of(input));
  if (!args) return check(!args.error().message.empty());
  const auto again = WorkerArgs::parse(args->to_argument());
  check(again && again->pool == args->pool && again->mountpoint == args->mountpoint &&
        again->threads == args->threads && again->state_fd == args->state_fd);
}

void run_control(Input input) {
  const auto pair = control_pair();
  check(pair.has_value());
  if (input.empty()) return;  // no message, but the end of all
  check(::send(pair->first.get(), input.data(), input.size(), 0) ==
        static_cast<ssize_t>(input.size()));
  const auto message = receive_control(pair->second.get(), false);
  check(!message || (message->text.size() <= ControlMessage::kMaxText && !message->fd));
}

// A word of its socket, or its argument.
void run_notifier_input(Input input) {
  const auto bytes = std::as_bytes(input);
  if (const auto word = KernelWord::decode(bytes)) {
    const auto again = KernelWord::decode(word->encoded());
    check(again && again->number == word->number && again->name == word->name &&
          word->name.size() <= KernelWord::kMaxName);
  }
  const auto args = NotifierArgs::parse(text_of(input));
  if (!args) return check(!args.error().message.empty());
  const auto again = NotifierArgs::parse(args->to_argument());
  check(again && again->fuse_fd == args->fuse_fd && again->connection == args->connection &&
        again->mountpoint == args->mountpoint);
}

std::string sent_control(Word word, const std::string& text) {
  const auto pair = control_pair();
  check(pair && send_control(pair->first.get(), word, 5, text).has_value());
  std::string bytes(1024, '\0');
  const ssize_t got = ::recv(pair->second.get(), bytes.data(), bytes.size(), 0);
  check(got > 0);
  bytes.resize(static_cast<std::size_t>(got));
  return bytes;
}

}  // namespace

Target size_target() {
  return {.run = run_size,
          .seeds = {"0", "4096", "1G", "512MiB", "9223372036854775807", "1.5G", "7 B", "8TB"},
          .words = {"0", "1", "9", "18446744073709551615", "K", "G", "iB", "B", "T", "-", " ", "."},
          .most_bytes = 64};
}

Target mount_options_target() {
  const std::string none(1, '\0');
  return {.run = run_mount_options,
          .seeds = {none + "threads=4,spin_us=20,noatime,ro", none + "io_uring,log_level=debug",
                    "\1x-systemd.automount,nofail,unknown=1", none + "nopassthrough,idle_ids=8"},
          .words = {",", ",", "=", "no", "threads", "io_uring", "log_level", "debug", "-1", "7",
                    "ro", "noatime", "x-", "spin_us", "99999999999999999999"},
          .most_bytes = 512};
}

Target config_target() {
  return {
      .run = run_config,
      .seeds = {"[format]\nsize = \"1G\"\nemulate = \"ram\"\n",
                "[mount]\npool = \"/p\"\nthreads = 7\nread_only = true\n# why\n",
                "[mount]\noptions = [\"noatime\", \"nosuid\"]\nlog_level = 'debug'\n"},
      .words = {"[mount]\n", "[format]\n", "\n",        " = ",      "threads", "size", "options",
                "\"1G\"",    "true",       "7",         "[",        "]",       "\"",   "'''",
                "{",         "1979-05-27", "pool",      "#",        "0x1F",    "inf",  "nan",
                "\\u0000",   "emulate",    "log_level", "directory"},
      .most_bytes = 1024};
}

Target cluster_file_target() {
  return {.run = run_cluster_file,
          .seeds = {"[cluster]\nname = \"dev\"\netcd = [\"http://10.0.0.1:2379\"]\n"
                    "etcd_user = \"btd\"\nkey = \"/etc/key\"\n[node]\nname = \"n1\"\n"
                    "listen = \"10.0.0.1:7440\"\ndomain = \"rack1\"\n"},
          .words = {"[cluster]\n", "[node]\n", "name", "etcd", "etcd_user", "listen", "key",
                    "domain", " = ", "\"", "[", "]", "\n", "http://", ":0", "true"},
          .most_bytes = 1024};
}

Target mountinfo_target() {
  return {.run = run_mountinfo,
          .seeds = {"36 35 98:0 / /mnt/x rw,noatime master:1 - fuse.bartender /pool rw\n"
                    "1 2 3:4 / / rw - ext4 /dev/vda rw\n",
                    "36 35 98:0 / /mnt/a\\040b rw - fuse.bartender /p\\134 rw,user_id=0\n"},
          .words = {"1 2 3:4 / /mnt rw", " ", "-", "\n", "fuse.bartender", "\\040", "\\0", "\\",
                    "/", " - a b c"},
          .most_bytes = 1024};
}

Target worker_arguments_target() {
  WorkerArgs args;
  args.pool = "/pool \xff\"";
  args.mountpoint = "/mnt";
  args.log_level = "info";
  args.control_fd = 3;
  args.lock_fd = 4;
  args.state_fd = 5;
  return {.run = run_worker_arguments,
          .seeds = {args.to_argument(), "{}", "nonsense"},
          .words = {"\"pool\":", "\"control_fd\":", "\"threads\":", "1e999", "-1", "4294967296",
                    "null", "\"\\u00ff\"", "\"\\u0100\"", "\"\\ud83d\\ude00\""},
          .most_bytes = 1024};
}

Target control_target() {
  return {.run = run_control,
          .seeds = {sent_control(Word::kReady, ""), sent_control(Word::kFailed, "no pool"),
                    sent_control(Word::kLogLevel, std::string(600, 'x'))},
          .most_bytes = 600};
}

Target notifier_target() {
  const KernelWord word{
      .kind = KernelWord::Kind::kForgetName, .number = 1, .inode = 2, .name = "n"};
  const auto bytes = word.encoded();
  return {
      .run = run_notifier_input,
      .seeds = {std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                NotifierArgs{
                    .fuse_fd = 3, .socket = 4, .lifeline = 5, .connection = 6, .mountpoint = "/mnt"}
                    .to_argument(),
                "3 4 5"},
      .most_bytes = 400};
}

}  // namespace btd::fuzz
