# Both binaries in one image. `package/image` makes the same without a container engine; `e2e/dockerfile` tries this file.
FROM rust:1.95.0-bookworm AS build
# The toolchain of the image, and no components for developers beside it.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /kruise
COPY . .
RUN package/binaries /image

# Static binaries that speak to the API server and the container runtime only: no libc, shell or public authorities. Who they
# run as is the chart's business: the manager as nobody, the agents as root, who owns the runtime's socket.
FROM scratch
COPY --from=build /image /
CMD ["/manager"]
