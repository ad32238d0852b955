# Both binaries in one image. `package/image` makes the same without a container engine.
FROM rust:1.95-bookworm AS build
WORKDIR /kruise
COPY . .
# Naming the target keeps the flag away from build scripts and procedural macros.
RUN target=$(uname -m)-unknown-linux-gnu \
 && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" \
      --package kruise-manager --package kruise-daemon \
 && mkdir -p -m 1777 /image/tmp \
 && cp "target/$target/release/kruise-manager" /image/manager \
 && cp "target/$target/release/kruise-daemon" /image/kruise-daemon

# Static binaries that speak to the API server and the container runtime only: no libc, shell or public authorities. Who they
# run as is the chart's business: the manager as nobody, the agents as root, who owns the runtime's socket.
FROM scratch
COPY --from=build /image /
CMD ["/manager"]
