package dev.tacit.edge.agent;

import io.grpc.ManagedChannel;
import javax.net.ssl.SSLContext;

/**
 * Opens gRPC channels: netty here, grpc-okhttp on Android, where the context's socket factory and
 * {@code OkHttpChannelBuilder} are all that it takes.
 */
public interface Transport {
  /** A channel over TLS; the context has whom to trust and, where there is one, the certificate. */
  ManagedChannel open(String host, int port, SSLContext tls);
}
