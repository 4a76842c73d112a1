# The image of launcher, workers and TensorBoard.
#
#   podman build --format docker -t distsent:0.1.0 .            (docker build and buildah bud work, too)
#   podman build --format docker -t distsent:0.1.0-cuda \
#       --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 --build-arg RUNTIME=nvidia/cuda:13.0.2-runtime-ubuntu24.04 .
#
# BASE needs packages of Python 3.11 or newer and of Open MPI 4.1 (Debian 12, Ubuntu 24.04). Open
# MPI 5 does not work: it ignores the variables in which the operator names the hosts, and every
# rank runs on the launcher.
ARG BASE=debian:bookworm-slim
ARG RUNTIME=${BASE}

# ---- pins: without the development tools, so that a new linter does not rebuild Horovod ---------
FROM ${BASE} AS pins
COPY constraints.txt /
RUN sed '/^# extra: dev/,/^$/d' /constraints.txt >/pins.txt

# ---- build: a compiler, header files, and the virtual environment --------------------------------
FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates g++ libopenmpi-dev make openmpi-bin python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY --from=pins /pins.txt /opt/
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_CONSTRAINT=/opt/pins.txt
RUN python3 -m venv /opt/venv && pip install pip setuptools

# PyPI's torch includes CUDA, which is useless on a base without it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if command -v nvcc >/dev/null; then pip install torch; \
    else pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$(grep ^torch== "$PIP_CONSTRAINT")+cpu"; fi

# Horovod comes before the libraries below: they change more often, and Horovod takes minutes to
# compile. It uses torch's NCCL, because a process can load only one. tools/cxx17 explains itself.
COPY tools/cxx17 /opt/distsent/tools/
RUN pip install cffi cloudpickle cmake numpy packaging psutil pyyaml wheel \
    && export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        CXX=/opt/distsent/tools/cxx17 CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
    && if command -v nvcc >/dev/null; then \
        nccl=$(python -c 'import nvidia.nccl as n; print(*n.__path__)') && ln -s "$nccl/lib/libnccl.so.2" /usr/local/lib/libnccl.so \
        && export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED HOROVOD_NCCL_INCLUDE="$nccl/include" \
            HOROVOD_NCCL_LIB=/usr/local/lib HOROVOD_CUDA_HOME=/usr/local/cuda NVCC_APPEND_FLAGS=-std=c++17; fi \
    && pip install --no-build-isolation --no-deps horovod

COPY pyproject.toml setup.cfg /opt/distsent/
COPY distsent/__init__.py /opt/distsent/distsent/
RUN pip install --no-build-isolation --editable "/opt/distsent[lora,excel,plots,sweep,mpi]"
COPY distsent/operators /opt/distsent/distsent/operators
RUN cd /opt/distsent && python -m distsent.operators.library

# Remove the tools, and put torch into a layer of its own: it changes rarely, so nodes that have it
# do not pull it again.
RUN pip uninstall --yes cmake wheel && python -m pip uninstall --yes pip \
    && site=$(echo /opt/venv/lib/python3.*/site-packages) && apart=/opt/torch${site#/opt/venv} && mkdir -p "$apart" \
    && rm -rf "$site/torch/include" "$site/torch/share" "$site/torch/test" "$site/pyarrow/include" "$site"/pyarrow/tests \
    && if ! command -v nvcc >/dev/null; then rm -f "$site"/bitsandbytes/libbitsandbytes_[cr]*[0-9]*.so; fi \
    && find "$site" -name '*.a' -delete \
    && for part in torch nvidia triton; do if [ -e "$site/$part" ]; then mv "$site/$part" "$apart/"; fi; done

# ---- the image ------------------------------------------------------------------------------------
FROM ${RUNTIME}
# On GPUs, Triton compiles a part of itself at its first use.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates openmpi-bin openssh-client openssh-server python3 \
        $(if [ -d /usr/local/cuda ]; then echo gcc libc6-dev python3-dev; fi) \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /etc/ssh/ssh_host_* /usr/share/doc/* /usr/share/man/*

# The user of the manifests, by number; on Ubuntu another user has that number.
RUN if getent passwd 1000 >/dev/null; then userdel --remove "$(getent passwd 1000 | cut -d: -f1)" || true; fi \
    && useradd --create-home --uid 1000 --shell /bin/bash mpiuser && install -d -o mpiuser -g mpiuser -m 700 /home/mpiuser/.ssh \
    && mkdir -p /run/sshd /shared && chown mpiuser:mpiuser /shared
COPY k8s/image/ssh_config /etc/ssh/ssh_config.d/distsent.conf
COPY k8s/image/sshd_config /home/mpiuser/.sshd_config

COPY --from=build /opt/torch /opt/venv
COPY --from=build /opt/venv /opt/venv
COPY LICENSE /opt/distsent/
COPY jobs /opt/distsent/jobs
COPY distsent /opt/distsent/distsent
COPY --from=build /opt/distsent/distsent/operators/built /opt/distsent/distsent/operators/built
RUN /opt/venv/bin/python -m compileall -q /opt/distsent/distsent

# A number, so that the kubelet can check runAsNonRoot without reading the image.
USER 1000
# The claim's mount point: a run without run.dir is also written there.
WORKDIR /shared
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1
EXPOSE 2222 6006
HEALTHCHECK --interval=10m --timeout=2m CMD ["python", "-m", "distsent.doctor"]
CMD ["python", "-m", "distsent.train", "--help"]
