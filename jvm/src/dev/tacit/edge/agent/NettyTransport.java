package dev.tacit.edge.agent;

import io.grpc.ManagedChannel;
import io.grpc.netty.NettyChannelBuilder;
import io.netty.buffer.ByteBufAllocator;
import io.netty.handler.ssl.AlpnEngine;
import io.netty.handler.ssl.ApplicationProtocolNegotiator;
import io.netty.handler.ssl.SslContext;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSessionContext;

/** gRPC on netty with the JDK's TLS: HTTP/2 by ALPN, the server's name checked. */
public final class NettyTransport implements Transport {
  private static final int LARGEST_FRAME = 4 << 20;

  @Override
  public ManagedChannel open(String host, int port, SSLContext tls) {
    return NettyChannelBuilder.forAddress(host, port)
        .sslContext(new Context(tls))
        .maxInboundMessageSize(LARGEST_FRAME)
        .keepAliveTime(60, TimeUnit.SECONDS)
        .keepAliveTimeout(20, TimeUnit.SECONDS)
        .disableRetry()
        .build();
  }

  /** The JDK's context as netty takes one; see {@link AlpnEngine} for why it isn't netty's own. */
  private static final class Context extends SslContext {
    private static final List<String> PROTOCOLS = Collections.singletonList("h2");
    private final SSLContext tls;

    Context(SSLContext tls) {
      this.tls = tls;
    }

    @Override
    public boolean isClient() {
      return true;
    }

    @Override
    public List<String> cipherSuites() {
      return Arrays.asList(tls.getDefaultSSLParameters().getCipherSuites());
    }

    @Override
    public long sessionCacheSize() {
      return tls.getClientSessionContext().getSessionCacheSize();
    }

    @Override
    public long sessionTimeout() {
      return tls.getClientSessionContext().getSessionTimeout();
    }

    @Override
    @SuppressWarnings("deprecation")
    public ApplicationProtocolNegotiator applicationProtocolNegotiator() {
      return () -> PROTOCOLS;
    }

    @Override
    public SSLEngine newEngine(ByteBufAllocator allocator) {
      return made(tls.createSSLEngine());
    }

    @Override
    public SSLEngine newEngine(ByteBufAllocator allocator, String host, int port) {
      return made(tls.createSSLEngine(host, port));
    }

    private static SSLEngine made(SSLEngine engine) {
      engine.setUseClientMode(true);
      engine.setEnabledProtocols(new String[] {"TLSv1.3", "TLSv1.2"});
      SSLParameters parameters = engine.getSSLParameters();
      parameters.setApplicationProtocols(PROTOCOLS.toArray(new String[0]));
      parameters.setEndpointIdentificationAlgorithm("HTTPS");
      engine.setSSLParameters(parameters);
      return new AlpnEngine(engine);
    }

    @Override
    public SSLSessionContext sessionContext() {
      return tls.getClientSessionContext();
    }
  }
}
