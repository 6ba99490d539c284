package io.netty.handler.ssl;

import javax.net.ssl.SSLEngine;

/**
 * The JDK's engine, telling netty which protocol its own ALPN negotiated.
 *
 * <p>In netty's package because Debian's netty comes without the class that does this ({@code
 * JdkAlpnApplicationProtocolNegotiator}), and {@link JdkSslEngine}, where netty asks, is its
 * package's. Not for Android, whose transport is grpc-okhttp.
 */
public final class AlpnEngine extends JdkSslEngine {
  /** Around an engine whose parameters have the protocols. */
  public AlpnEngine(SSLEngine engine) {
    super(engine);
  }

  @Override
  public String getNegotiatedApplicationProtocol() {
    return getWrappedEngine().getApplicationProtocol();
  }
}
