package dev.tacit.edge.agent;

import dev.tacit.edge.v1.Attestation;
import dev.tacit.edge.v1.BlobRef;
import dev.tacit.edge.v1.Chunk;
import dev.tacit.edge.v1.DownloadRequest;
import dev.tacit.edge.v1.GatewayGrpc;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** What a task needs from the gateway beside itself, over as many connections as it takes. */
final class Fetcher {
  private static final long FIRST_MS = 200;
  private static final long MOST_MS = 5000;

  private final Blobs blobs;
  private Link link;
  private ManagedChannel channel;

  Fetcher(Blobs blobs) {
    this.blobs = blobs;
  }

  /** There is a connection, or with nulls there is none. */
  synchronized void online(Link made, ManagedChannel opened) {
    link = made;
    channel = opened;
    notifyAll();
  }

  /** The stream, or null. */
  synchronized Link link() {
    return link;
  }

  /**
   * A blob, downloaded if it isn't here.
   *
   * @param open whether there is still time
   */
  byte[] blob(BooleanSupplier open, BlobRef ref) throws LinkException, InterruptedException {
    long pause = FIRST_MS;
    while (true) {
      ManagedChannel on = await(open).channel;
      try {
        return blobs.fetch(
            ref.getSha256().toByteArray(), ref.getSize(), offset -> chunks(on, ref, offset));
      } catch (StatusRuntimeException error) {
        Status.Code code = error.getStatus().getCode();
        if (code == Status.Code.NOT_FOUND || code == Status.Code.OUT_OF_RANGE) {
          throw new LinkException("the gateway no longer has what the task refers to");
        }
        Journal.say("download broke", "why", String.valueOf(error.getStatus()));
        Thread.sleep(pause);
        pause = Math.min(MOST_MS, 2 * pause);
      }
    }
  }

  private static Iterator<byte[]> chunks(ManagedChannel open, BlobRef ref, long offset) {
    DownloadRequest request =
        DownloadRequest.newBuilder().setSha256(ref.getSha256()).setOffset(offset).build();
    Iterator<Chunk> found =
        GatewayGrpc.newBlockingStub(open)
            .withDeadlineAfter(900, TimeUnit.SECONDS)
            .download(request);
    return new Iterator<byte[]>() {
      @Override
      public boolean hasNext() {
        return found.hasNext();
      }

      @Override
      public byte[] next() {
        return found.next().getData().toByteArray();
      }
    };
  }

  /** Who some clients are, likewise. */
  List<Attestation> lookup(BooleanSupplier open, List<Long> clients)
      throws LinkException, InterruptedException {
    while (true) {
      Online current = await(open);
      try {
        return current.link.lookup(clients);
      } catch (LinkException error) {
        Thread.sleep(200);
      }
    }
  }

  /** A connection, once there is one. */
  private synchronized Online await(BooleanSupplier open)
      throws LinkException, InterruptedException {
    while (link == null && open.getAsBoolean()) {
      wait(200);
    }
    if (!open.getAsBoolean()) {
      throw new LinkException("the task's time is over");
    }
    return new Online(link, channel);
  }

  /** A stream and its channel. */
  private static final class Online {
    private final Link link;
    private final ManagedChannel channel;

    Online(Link link, ManagedChannel channel) {
      this.link = link;
      this.channel = channel;
    }
  }
}
