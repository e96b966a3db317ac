FROM python:3.11-slim
# gcc compiles the fusion head's training step while drexcache is installed.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /drexcache
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[report,parquet]'
WORKDIR /data
ENTRYPOINT ["drexcache"]
CMD ["--help"]
