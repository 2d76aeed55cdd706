#include "fs/remote/file_service.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace btd::remote {

namespace {

constexpr net::Time kLongest = std::chrono::hours(1);  // that a call may wait here
constexpr net::Time kPoll = std::chrono::milliseconds(5);
const Error kEnded{ECANCELED, "The home of the file stops serving; it may be back in a moment."};

}  // namespace

FileService::FileService(net::Engine& engine, net::Rpc& rpc, HomeFiles& files,
                         FileServiceOptions options)
    : engine_(engine),
      rpc_(rpc),
      files_(files),
      thread_(engine),
      regions_(engine, thread_, options.regions),
      calls_(files, regions_, options.own, std::move(options.home_of)),
      locks_(
          engine, rpc, thread_, [this](InodeId id) { return calls_.judge(id); }, options.lock_grace,
          std::move(options.names)),
      workers_(options.threads, options.waiting) {
  serve_holds();
  serve_files();
  serve_moves();
}

// Threads that are at work may need the engine: it is polled for them. How long that takes is
// bounded by the patience of the regions and the file system.
FileService::~FileService() {
  refuse_all();
  for (const auto& task : workers_.stop()) task();
  regions_.stop_tidying();
  while (workers_.busy() || regions_.is_tidying())
    if (!engine_.wait(engine_.now() + kPoll)) break;
  static_cast<void>(engine_.poll());                // the last answers
  for (const auto& task : workers_.stop()) task();  // of connections that closed meanwhile
  thread_.end();
  owed_.clear();
  regions_.end();
  for (const Holders::Hold& hold : holders_.take_all()) calls_.ended(hold.id, hold.is_writable);
}

void FileService::closed(const net::Endpoint& endpoint) {
  locks_.closed(endpoint);
  // Those it had open for writing it may have written to, and can't tell any more.
  for (const Holders::Hold& hold : holders_.closed(endpoint))
    workers_.post_always([this, hold] { end_hold(hold); });
}

void FileService::end_hold(const Holders::Hold& hold) {
  calls_.ended(hold.id, hold.is_writable);
  if (!holders_.is_held(hold.id)) regions_.unused(hold.id);
}

Status FileService::judge(const net::Rpc::Caller& caller, InodeId id) const {
  if (caller.epoch != engine_.epoch())
    return fail(wire::kOtherEpoch, "The caller and the home know different epochs.");
  return calls_.judge(id);
}

FileService::Ticket FileService::owe(net::Rpc::Reply reply) {
  const Ticket ticket = next_ticket_++;
  owed_.emplace(ticket, std::move(reply));
  return ticket;
}

void FileService::begin(const net::Rpc::Caller& caller, net::Rpc::Reply reply,
                        std::function<void(Ticket)> run) {
  const Ticket ticket = owe(std::move(reply));
  // What the caller has given up is not done behind its back.
  const net::Time left =
      std::clamp(caller.deadline - engine_.now(), net::Time{}, net::Time{kLongest});
  const bool is_taken =
      workers_.post([this, ticket, run = std::move(run), until = Clock::now() + left] {
        if (Clock::now() < until) return run(ticket);
        answer<wire::Done>(ticket, fail(ETIMEDOUT, "The home of the file was too busy."));
      });
  if (is_taken) return;
  const auto owed = owed_.find(ticket);
  fail_call(std::move(owed->second), {EBUSY, "The home of the file has too many calls to do."});
  owed_.erase(owed);
}

template <class Response>
void FileService::answer(Ticket ticket, Result<Response> result, std::vector<std::byte> tail) {
  thread_.post([this, ticket, result = std::move(result), tail = std::move(tail)] {
    const auto owed = owed_.find(ticket);
    net::Rpc::Reply reply = std::move(owed->second);
    owed_.erase(owed);
    if (result) return reply.answer(*result, tail);
    reply.fail(result.error());
  });
}

void FileService::fail_call(net::Rpc::Reply reply, const Error& error) {
  refused_.fetch_add(1, std::memory_order_relaxed);
  reply.fail(error);
}

// Of calls to one file.
template <class Request, class Response>
void FileService::serve(const net::Method<Request, Response>& method, bool has_tail,
                        Answered<Request, Response> run) {
  rpc_.serve<Request, Response>(method, [this, has_tail, run = std::move(run)](
                                            const net::Rpc::Caller& caller, const Request& request,
                                            net::Rpc::Bytes tail, net::Rpc::Reply reply) {
    served_.fetch_add(1, std::memory_order_relaxed);
    Status judged = judge(caller, request.id);
    if (judged && tail.size() > (has_tail ? wire::kMostCallBytes : 0))
      judged = fail(EINVAL, "The call has more bytes than it may have.");
    if (!judged) return fail_call(std::move(reply), judged.error());
    begin(caller, std::move(reply),
          [this, run, peer = caller.endpoint.peer(), request,
           bytes = std::vector(tail.begin(), tail.end())](Ticket ticket) {
            std::vector<std::byte> answer_tail;
            auto result = run(peer, request, bytes, answer_tail);
            answer<Response>(ticket, std::move(result), std::move(answer_tail));
          });
  });
}

void FileService::serve_holds() {
  rpc_.serve<wire::GreetRequest, wire::Done>(
      wire::kGreet, [this](const net::Rpc::Caller& caller, const wire::GreetRequest& request,
                           net::Rpc::Bytes, net::Rpc::Reply reply) {
        if (auto greeted = holders_.greet(caller.endpoint, request.client); !greeted)
          return reply.fail(greeted.error());
        reply.answer(wire::Done{});
      });
  serve_attach();
  serve_detach();
}

void FileService::serve_attach() {
  rpc_.serve<wire::AttachRequest, wire::AttachResponse>(
      wire::kAttach, [this](const net::Rpc::Caller& caller, const wire::AttachRequest& request,
                            net::Rpc::Bytes, net::Rpc::Reply reply) {
        served_.fetch_add(1, std::memory_order_relaxed);
        // Who only holds moves no byte: that is right in every epoch.
        const bool is_holding = (request.flags & wire::kAttachHolding) != 0;
        Status judged = is_holding ? calls_.judge(request.id) : judge(caller, request.id);
        if (judged) judged = holders_.greet(caller.endpoint, request.client);
        if (!judged) return fail_call(std::move(reply), judged.error());
        const Holders::Client client{caller.endpoint.peer(), request.client};
        begin(caller, std::move(reply),
              [this, client, request](Ticket ticket) { answer(ticket, attach(client, request)); });
      });
}

Result<wire::AttachResponse> FileService::attach(const Holders::Client& client,
                                                 const wire::AttachRequest& request) {
  const bool is_writable = (request.flags & wire::kAttachWritable) != 0;
  // Held before it counts: its data must not go in between.
  BTD_TRY(files_.hold(request.id));
  const auto added = holders_.add(client, request.generation, {request.id, is_writable});
  if (!added || !*added) files_.unhold(request.id);
  if (!added) return std::unexpected(added.error());
  // Not where a client says again what it has open, as one does that moves it.
  if (*added) files_.used(request.id);
  if ((request.flags & wire::kAttachHolding) != 0) return wire::AttachResponse{};
  const bool is_opening = (request.flags & wire::kAttachOpening) != 0;
  auto attached = calls_.attach(request.id, is_writable && is_opening);
  if (!attached && *added && holders_.remove(client, request.generation, request.id))
    files_.unhold(request.id);
  return attached;
}

void FileService::serve_detach() {
  rpc_.serve<wire::DetachRequest, wire::Done>(
      wire::kDetach, [this](const net::Rpc::Caller& caller, const wire::DetachRequest& request,
                            net::Rpc::Bytes, net::Rpc::Reply reply) {
        served_.fetch_add(1, std::memory_order_relaxed);
        // Of any epoch: what it ends was begun in its own.
        const Holders::Client client{caller.endpoint.peer(), request.client};
        if (!holders_.remove(client, request.generation, request.id))
          return reply.answer(wire::Done{});
        const Ticket ticket = owe(std::move(reply));
        const bool has_written = (request.flags & wire::kDetachWrote) != 0;
        workers_.post_always([this, ticket, id = request.id, has_written] {
          end_hold({id, has_written});
          answer<wire::Done>(ticket, wire::Done{});
        });
      });
}

void FileService::serve_files() {
  using Tail = std::span<const std::byte>;
  using Into = std::vector<std::byte>;
  serve<wire::FileRequest, wire::Attributes>(
      wire::kAttributes, false, [this](NodeId, const wire::FileRequest& request, Tail, Into&) {
        return calls_.attributes(request.id);
      });
  serve<wire::ChangeRequest, wire::Attributes>(
      wire::kChange, false, [this](NodeId, const wire::ChangeRequest& request, Tail, Into&) {
        return calls_.change(request);
      });
  serve<wire::ChangeRequest, wire::Attributes>(
      wire::kFlush, false, [this](NodeId, const wire::ChangeRequest& request, Tail, Into&) {
        return calls_.flush(request);
      });
  serve<wire::AllocateRequest, wire::Attributes>(
      wire::kAllocate, false, [this](NodeId, const wire::AllocateRequest& request, Tail, Into&) {
        return calls_.allocate(request);
      });
  serve<wire::WriteRequest, wire::WriteResponse>(
      wire::kWrite, true, [this](NodeId, const wire::WriteRequest& request, Tail tail, Into&) {
        return calls_.write(request, tail);
      });
  serve<wire::AppendRequest, wire::WriteResponse>(
      wire::kAppend, true,
      [this](NodeId peer, const wire::AppendRequest& request, Tail tail, Into&) {
        return calls_.append(peer, request, tail);
      });
  serve<wire::ReadRequest, wire::ReadResponse>(
      wire::kRead, false, [this](NodeId, const wire::ReadRequest& request, Tail, Into& into) {
        return calls_.read(request, into);
      });
  serve<wire::SeekRequest, wire::SeekResponse>(
      wire::kSeek, false, [this](NodeId, const wire::SeekRequest& request, Tail, Into&) {
        return calls_.seek(request);
      });
}

// Nobody but who moves it holds it. The unlock of a file may follow its close: it comes here, too.
Status FileService::judge_alone(NodeId peer, const wire::MoveRequest& request) const {
  if (locks_.is_used(request.id)) return fail(ETXTBSY, "a program has a lock on it");
  const std::vector<NodeId> nodes = holders_.others(request.id, {peer, request.client});
  if (nodes.empty()) return {};
  std::string text;
  for (const NodeId node : nodes) text += (text.empty() ? "" : ", ") + std::to_string(node);
  return fail(ETXTBSY, "it is open at node " + text);
}

void FileService::serve_moves() {
  using Tail = std::span<const std::byte>;
  using Into = std::vector<std::byte>;
  const auto serve_one = [this](const auto& method,
                                Status (FileCalls::*run)(const wire::MoveRequest& request)) {
    serve<wire::MoveRequest, wire::Done>(method, false,
                                         [this, run](NodeId peer, const wire::MoveRequest& request,
                                                     Tail, Into&) -> Result<wire::Done> {
                                           BTD_TRY(judge_alone(peer, request));
                                           BTD_TRY((calls_.*run)(request));
                                           return wire::Done{};
                                         });
  };
  rpc_.serve<wire::SpaceRequest, wire::SpaceResponse>(
      wire::kSpace, [this](const net::Rpc::Caller& caller, const wire::SpaceRequest&,
                           net::Rpc::Bytes, net::Rpc::Reply reply) {
        served_.fetch_add(1, std::memory_order_relaxed);
        begin(caller, std::move(reply), [this](Ticket ticket) { answer(ticket, calls_.space()); });
      });
  serve_one(wire::kReserve, &FileCalls::reserve);
  serve_one(wire::kYield, &FileCalls::yield);
}

template <class Request, class Response>
void FileService::refuse(const net::Method<Request, Response>& method) {
  rpc_.serve<Request, Response>(method, [](const net::Rpc::Caller&, const Request&, net::Rpc::Bytes,
                                           net::Rpc::Reply reply) { reply.fail(kEnded); });
}

void FileService::refuse_all() {
  refuse(wire::kGreet);
  refuse(wire::kAttach);
  refuse(wire::kDetach);
  refuse(wire::kAttributes);
  refuse(wire::kChange);
  refuse(wire::kFlush);
  refuse(wire::kAllocate);
  refuse(wire::kWrite);
  refuse(wire::kAppend);
  refuse(wire::kRead);
  refuse(wire::kSeek);
  refuse(wire::kReserve);
  refuse(wire::kYield);
  refuse(wire::kSpace);
  locks_.refuse_all(kEnded);
}

FileService::Counters FileService::counters() const {
  const LockTable::Counts locks = locks_.counts();
  return {.calls = served_.load(std::memory_order_relaxed),
          .refused = refused_.load(std::memory_order_relaxed),
          .holds = holders_.holds(),
          .mapped = regions_.mapped(),
          .broken = regions_.broken(),
          .locks = locks.locks,
          .lock_waits = locks.waits};
}

}  // namespace btd::remote
