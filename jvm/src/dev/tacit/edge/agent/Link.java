package dev.tacit.edge.agent;

import com.google.protobuf.ByteString;
import dev.tacit.edge.v1.AnswerPart;
import dev.tacit.edge.v1.Attestation;
import dev.tacit.edge.v1.Bye;
import dev.tacit.edge.v1.CheckIn;
import dev.tacit.edge.v1.DeviceFrame;
import dev.tacit.edge.v1.Entries;
import dev.tacit.edge.v1.GatewayFrame;
import dev.tacit.edge.v1.GatewayGrpc;
import dev.tacit.edge.v1.Hello;
import dev.tacit.edge.v1.Lookup;
import dev.tacit.edge.v1.Refusal;
import dev.tacit.edge.v1.Welcome;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * One stream to the gateway, frame by frame.
 *
 * <p>Frames are written one at a time, an answer's parts without another's between them, none
 * larger than the gateway takes, and none before the transport has room for it. What isn't read
 * yet is bounded: the transport stops reading for it.
 */
final class Link implements ClientResponseObserver<DeviceFrame, GatewayFrame> {
  private static final int PROTOCOL = 1;
  /** Of a frame, for what surrounds a part of an answer. */
  private static final int ROOM = 1024;
  private static final int LOOKUP = 512;
  private static final long SECONDS = 30;

  private final BlockingQueue<Object> inbox = new ArrayBlockingQueue<>(64);
  private final Object ready = new Object();
  /** Guards what a lookup waits for; never held while a frame is written. */
  private final Object waiting = new Object();
  private volatile Status ended;
  private ClientCallStreamObserver<DeviceFrame> out;
  private Welcome welcome = Welcome.getDefaultInstance();
  private Set<Integer> wanted = new HashSet<>();
  private List<Attestation> found = new ArrayList<>();
  private CompletableFuture<List<Attestation>> reply;

  /** Connects, says hello, and waits to be welcomed as this client. */
  static Link open(ManagedChannel channel, long client) throws LinkException, InterruptedException {
    Link link = new Link();
    GatewayGrpc.newStub(channel).connect(link);
    Hello hello = Hello.newBuilder().setProtocol(PROTOCOL).setAgent(Agent.NAME).build();
    link.send(DeviceFrame.newBuilder().setHello(hello).build());
    GatewayFrame first = link.next(TimeUnit.SECONDS.toMillis(SECONDS));
    if (first == null || first.getFrameCase() != GatewayFrame.FrameCase.WELCOME) {
      link.close();
      throw new LinkException("the stream didn't begin with a welcome");
    }
    link.welcome = first.getWelcome();
    if ((link.welcome.getClient() & 0xFFFFFFFFL) != client) {
      link.close();
      throw new LinkException("the gateway took this device for another client");
    }
    return link;
  }

  // What the transport tells

  @Override
  public void beforeStart(ClientCallStreamObserver<DeviceFrame> stream) {
    out = stream;
    stream.setOnReadyHandler(this::wake);
  }

  @Override
  public void onNext(GatewayFrame frame) {
    try {
      inbox.put(frame);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void onError(Throwable error) {
    over(Status.fromThrowable(error));
  }

  @Override
  public void onCompleted() {
    over(Status.OK);
  }

  private void over(Status status) {
    ended = status;
    wake();
    // Wakes who waits; where the inbox is full, what is in it is looked at first.
    if (!inbox.offer(status)) {
      wake();
    }
    synchronized (waiting) {
      if (reply != null) {
        reply.completeExceptionally(new LinkException("the stream ended"));
      }
    }
  }

  private void wake() {
    synchronized (ready) {
      ready.notifyAll();
    }
  }

  // What the agent does

  /** The next frame; null if none came in time. */
  GatewayFrame next(long millis) throws LinkException, InterruptedException {
    Object got = ended != null ? inbox.poll() : inbox.poll(millis, TimeUnit.MILLISECONDS);
    if (got instanceof GatewayFrame) {
      return (GatewayFrame) got;
    }
    if (got == null && ended == null) {
      return null;
    }
    Status status = ended;
    throw new LinkException(
        "the stream ended: " + status.getCode() + " " + String.valueOf(status.getDescription()));
  }

  private synchronized void send(DeviceFrame frame) throws LinkException, InterruptedException {
    synchronized (ready) {
      while (ended == null && !out.isReady()) {
        ready.wait(1000);
      }
    }
    if (ended != null) {
      throw new LinkException("the stream ended");
    }
    out.onNext(frame);
  }

  void checkIn(boolean eligible) throws LinkException, InterruptedException {
    CheckIn said = CheckIn.newBuilder().setEligible(eligible).build();
    send(DeviceFrame.newBuilder().setCheckIn(said).build());
  }

  void refuse(String task, int reason, String text, byte[] signature)
      throws LinkException, InterruptedException {
    Refusal said =
        Refusal.newBuilder()
            .setTask(task)
            .setReasonValue(reason)
            .setText(text)
            .setSignature(ByteString.copyFrom(signature))
            .build();
    send(DeviceFrame.newBuilder().setRefusal(said).build());
  }

  /** Sends an answer in parts, of which the last is signed. */
  synchronized void answer(String task, byte[] body, byte[] signature)
      throws LinkException, InterruptedException {
    if (welcome.getMaxAnswer() != 0 && body.length > welcome.getMaxAnswer()) {
      throw new LinkException("an answer of " + body.length + " bytes is more than is taken");
    }
    int size = Math.max(1, (welcome.getMaxFrame() == 0 ? 4 << 20 : welcome.getMaxFrame()) - ROOM);
    for (int start = 0; start < body.length; start += size) {
      int length = Math.min(size, body.length - start);
      AnswerPart.Builder part =
          AnswerPart.newBuilder()
              .setTask(task)
              .setOffset(start)
              .setTotal(body.length)
              .setData(ByteString.copyFrom(body, start, length));
      if (start + length == body.length) {
        part.setSignature(ByteString.copyFrom(signature));
      }
      send(DeviceFrame.newBuilder().setAnswer(part).build());
    }
  }

  /** Asks who some clients are; those that nobody is come without an entry. */
  List<Attestation> lookup(List<Long> clients) throws LinkException, InterruptedException {
    List<Attestation> all = new ArrayList<>();
    for (int start = 0; start < clients.size(); start += LOOKUP) {
      List<Long> some = clients.subList(start, Math.min(start + LOOKUP, clients.size()));
      Lookup.Builder asked = Lookup.newBuilder();
      CompletableFuture<List<Attestation>> mine = new CompletableFuture<>();
      synchronized (waiting) {
        wanted = new HashSet<>();
        some.forEach(client -> wanted.add((int) (long) client));
        found = new ArrayList<>();
        reply = mine;
      }
      some.forEach(client -> asked.addClients((int) (long) client));
      send(DeviceFrame.newBuilder().setLookup(asked).build());
      try {
        all.addAll(mine.get(2 * SECONDS, TimeUnit.SECONDS));
      } catch (ExecutionException | TimeoutException error) {
        throw new LinkException("no reply to a lookup");
      }
    }
    return all;
  }

  /** Takes a part of a lookup's reply; what wasn't asked for is left out. */
  void entries(Entries entries) {
    synchronized (waiting) {
      for (Attestation entry : entries.getEntriesList()) {
        if (wanted.remove(entry.getClient())) {
          found.add(entry);
        }
      }
      wanted.removeAll(entries.getUnknownList());
      if (wanted.isEmpty() && reply != null) {
        reply.complete(found);
      }
    }
  }

  /** Ends the stream with a word. */
  void bye() throws InterruptedException {
    try {
      send(DeviceFrame.newBuilder().setBye(Bye.getDefaultInstance()).build());
      out.onCompleted();
    } catch (LinkException error) {
      // It ended by itself.
      return;
    }
  }

  void close() {
    inbox.clear();
    out.cancel("the device leaves", null);
  }
}
