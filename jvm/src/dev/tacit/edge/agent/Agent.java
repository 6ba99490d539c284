package dev.tacit.edge.agent;

import com.google.protobuf.ByteString;
import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Identity;
import dev.tacit.edge.policy.Manifest;
import dev.tacit.edge.policy.RunDocument;
import dev.tacit.edge.v1.Blob;
import dev.tacit.edge.v1.BlobRef;
import dev.tacit.edge.v1.GatewayFrame;
import dev.tacit.edge.v1.Received;
import dev.tacit.edge.v1.Task;
import dev.tacit.edge.wire.Statements;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.function.BooleanSupplier;

/**
 * The agent: stays connected, takes tasks, and sees to it that each gets its one answer.
 *
 * <p>One task is worked on at a time, in a thread beside the one that reads. A task that comes
 * again over a new stream is answered again, with the same bytes, under its nonce of now. A lost
 * connection, a gateway that stops or one that sends the device away costs time only. It never
 * answers what its member doesn't.
 */
final class Agent {
  static final String NAME = "tacit-edge-jvm/0.1";
  private static final int MOST = 16;
  private static final long STEADY_MS = 60_000;
  private static final long RENEWAL_MS = 3_600_000;

  private final Home home;
  private final Home.Enrolled who;
  private final Identity identity;
  private final Member member;
  private final Blobs blobs;
  private final BooleanSupplier eligible;
  private final Transport transport;
  private final Map<String, Job> jobs = new LinkedHashMap<>();
  private final BlockingQueue<Job> queue = new LinkedBlockingQueue<>();
  private final Random spread = new Random();
  private final Fetcher fetcher;
  private long againMs = 600_000;
  private long renewal;
  private volatile boolean stopping;

  Agent(
      Home home,
      Home.Enrolled who,
      Identity identity,
      Member member,
      Blobs blobs,
      BooleanSupplier eligible,
      Transport transport) {
    this.home = home;
    this.who = who;
    this.identity = identity;
    this.member = member;
    this.blobs = blobs;
    fetcher = new Fetcher(blobs);
    this.eligible = eligible;
    this.transport = transport;
  }

  /** A task and its answer, or the reason of its refusal. */
  private static final class Job {
    Task task;
    volatile long until;
    byte[] answer;
    TacitException refusal;
    volatile boolean dropped;

    /** Whether there is still time for it. */
    boolean open() {
      return !dropped && until > now();
    }
  }

  /** Ends {@link #run} soon, politely. */
  void stop() {
    stopping = true;
  }

  /** Serves until it is stopped. */
  void run(long firstMs, long mostMs) throws InterruptedException {
    Thread worker = new Thread(this::work, "tacit-worker");
    worker.setDaemon(true);
    worker.start();
    int failures = 0;
    while (!stopping) {
      long began = now();
      long pause;
      try {
        pause = connected();
        failures = 0;
      } catch (LinkException | StatusRuntimeException error) {
        failures = now() - began > STEADY_MS ? 1 : failures + 1;
        long doubled = Math.min(mostMs, firstMs << Math.min(failures - 1, 20));
        pause = doubled + (long) (doubled * spread.nextDouble() / 4);
        Journal.say("disconnected", "why", error.getMessage());
        if (String.valueOf(error.getMessage()).contains("REVOKED: ")) {
          // For good: whoever runs this has to be asked.
          break;
        }
      }
      for (long end = now() + pause; !stopping && now() < end; ) {
        Thread.sleep(Math.min(100, Math.max(1, end - now())));
      }
    }
    worker.interrupt();
  }

  private static long now() {
    return System.nanoTime() / 1_000_000;
  }

  // The connection

  /** One stream; the milliseconds after which to come back. */
  private long connected() throws LinkException, InterruptedException {
    Enrolment.Address address = new Enrolment.Address(who.gateway);
    String own = home.certificate();
    ManagedChannel opened =
        transport.open(address.host, address.port, Certificates.tls(who.ca, own));
    try {
      renew(opened);
      Link made = Link.open(opened, who.client);
      Journal.say("connected");
      fetcher.online(made, opened);
      try {
        return served(made, opened);
      } finally {
        fetcher.online(null, null);
        made.close();
      }
    } finally {
      opened.shutdownNow();
    }
  }

  /** Renews the certificate if that is due; the stream keeps the old one to its end. */
  private void renew(ManagedChannel opened) {
    renewal = now() + RENEWAL_MS;
    if (!Certificates.due(home.certificate(), System.currentTimeMillis())) {
      return;
    }
    try {
      Enrolment.renew(home, who, opened);
      Journal.say("renewed");
    } catch (TacitException | StatusRuntimeException error) {
      Journal.say("certificate not renewed", "why", error.getMessage());
    }
  }

  private long served(Link made, ManagedChannel opened)
      throws LinkException, InterruptedException {
    Boolean told = null;
    long due = 0;
    while (!stopping) {
      boolean ready = eligible.getAsBoolean();
      if (told == null || told != ready || now() >= due) {
        made.checkIn(ready);
        told = ready;
        due = now() + againMs;
      }
      if (now() >= renewal) {
        renew(opened);
      }
      GatewayFrame frame = made.next(Math.max(1, Math.min(250, due - now())));
      long pause = frame == null ? -1 : take(made, frame);
      if (pause >= 0) {
        return pause;
      }
    }
    made.bye();
    return 0;
  }

  /** What one frame asks for; milliseconds if it ends the stream, else -1. */
  private long take(Link made, GatewayFrame frame)
      throws LinkException, InterruptedException {
    switch (frame.getFrameCase()) {
      case ACCEPT:
        againMs = Math.max(1000, frame.getAccept().getAgainMs() & 0xFFFFFFFFL);
        return -1;
      case RETRY_AT:
        return frame.getRetryAt().getAfterMs() & 0xFFFFFFFFL;
      case GOODBYE:
        long after = frame.getGoodbye().getAfterMs() & 0xFFFFFFFFL;
        if (after == 0) {
          // A rule was broken, or another stream of this device is there: back off.
          throw new LinkException("goodbye: " + frame.getGoodbye().getWhy());
        }
        Journal.say("goodbye", "why", frame.getGoodbye().getWhy());
        return after;
      case TASK:
        add(made, frame.getTask());
        return -1;
      case RECEIVED:
        received(frame.getReceived());
        return -1;
      case CANCEL:
        drop(frame.getCancel().getTask());
        return -1;
      case ENTRIES:
        made.entries(frame.getEntries());
        return -1;
      default:
        // Of a later version.
        return -1;
    }
  }

  // Tasks

  private void add(Link made, Task task) throws LinkException, InterruptedException {
    Job job;
    boolean known;
    synchronized (jobs) {
      jobs.values().removeIf(old -> old.dropped = old.until <= now());
      job = jobs.get(task.getId());
      known = job != null;
      if (!known && jobs.size() >= MOST) {
        throw new LinkException("the gateway sent more than " + MOST + " tasks at once");
      }
      job = known ? job : new Job();
      synchronized (job) {
        job.task = task;
        job.until = now() + (task.getDeadlineMs() & 0xFFFFFFFFL);
      }
      jobs.put(task.getId(), job);
    }
    Journal.say("task", "kind", task.getKind());
    if (known) {
      send(made, job);
    } else {
      queue.add(job);
    }
  }

  private void drop(String task) {
    synchronized (jobs) {
      Job job = jobs.remove(task);
      if (job != null) {
        job.dropped = true;
      }
    }
  }

  private void received(Received received) {
    Journal.say("received", "accepted", Boolean.toString(received.getAccepted()));
    drop(received.getTask());
  }

  private void work() {
    try {
      while (true) {
        Job job = queue.take();
        if (!job.open()) {
          drop(job.task.getId());
          continue;
        }
        try {
          answer(job);
        } catch (LinkException error) {
          // Its time is over, or it comes again over the next stream.
          Journal.say("not sent", "why", error.getMessage());
        }
      }
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  private void answer(Job job) throws LinkException, InterruptedException {
    long began = now();
    byte[] made = null;
    TacitException no = null;
    try {
      made = made(job);
    } catch (TacitException error) {
      no = error;
    } catch (RuntimeException error) {
      no = new TacitException(Reason.FAILED, "the device failed", error);
    }
    if (no != null) {
      String cause = no.getCause() == null ? no.getMessage() : no.getCause().toString();
      String reason = no.reason().name();
      Journal.say("refused", "kind", job.task.getKind(), "reason", reason, "why", cause);
    } else {
      Journal.say("answered", "kind", job.task.getKind(), "ms", Long.toString(now() - began));
    }
    synchronized (job) {
      job.answer = made;
      job.refusal = no;
    }
    Link current = fetcher.link();
    if (current != null) {
      send(current, job);
    }
  }

  /** Sends a job's answer, if it has one, signed for its nonce of now. */
  private void send(Link to, Job job) throws LinkException, InterruptedException {
    Task task;
    byte[] answer;
    TacitException refusal;
    synchronized (job) {
      task = job.task;
      answer = job.answer;
      refusal = job.refusal;
    }
    if (job.dropped || answer == null && refusal == null) {
      return;
    }
    byte[] nonce = task.getNonce().toByteArray();
    if (refusal == null) {
      byte[] said = Statements.reply(nonce, task.getKind(), who.client, answer);
      to.answer(task.getId(), answer, identity.sign(said));
      return;
    }
    int reason = refusal.reason().number();
    String text = Member.said(refusal);
    byte[] said = Statements.refusal(nonce, task.getKind(), who.client, reason, text);
    to.refuse(task.getId(), reason, text, identity.sign(said));
  }

  private byte[] made(Job job) throws LinkException, InterruptedException {
    Task task = job.task;
    if (!task.hasRun()) {
      throw new TacitException(Reason.UNSIGNED, "the task has no run document");
    }
    byte[] document = fetcher.blob(job::open, task.getRun());
    RunDocument about = member.document(document);
    if (member.needsGraphs() && !task.getKind().startsWith("query.c")) {
      graph(job, about.step);
      if (about.evaluation != null) {
        graph(job, about.evaluation);
      }
    }
    boolean inline = task.getBody().getWhereCase() == Blob.WhereCase.INLINE;
    byte[] body =
        inline
            ? task.getBody().getInline().toByteArray()
            : fetcher.blob(job::open, task.getBody().getRef());
    List<Long> unknown = member.unknown(task.getKind(), body);
    if (!unknown.isEmpty()) {
      member.meet(fetcher.lookup(job::open, unknown));
    }
    byte[] answer = member.answer(task.getKind(), body, document, eligible.getAsBoolean());
    if (!inline) {
      blobs.drop(task.getBody().getRef().getSha256().toByteArray());
    }
    return answer;
  }

  private void graph(Job job, Manifest manifest) throws LinkException, InterruptedException {
    ByteString digest = ByteString.copyFrom(dev.tacit.edge.crypto.Bytes.unhex(manifest.graph));
    BlobRef ref = BlobRef.newBuilder().setSha256(digest).setSize(manifest.graphBytes).build();
    fetcher.blob(job::open, ref);
  }
}
