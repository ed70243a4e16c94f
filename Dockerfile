# Zipquant with its environment and all versions of the toolkit; its two commands on any machine:
#   docker build -t zipquant .
#   docker run --rm -v "$PWD:/data" zipquant demo
#   docker run --rm -v "$PWD:/data" zipquant model MODEL=zipformer AUDIO=speech PLATFORM=rk3588
# Its tests, with the packages of the lock, which are installed first:
#   docker run --rm zipquant test
# docs/install.md has the same for Apptainer, and how Snakemake runs single jobs in it.
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The environment first: a change of the workflow does not install it again.
WORKDIR /zipquant
COPY Makefile ./
COPY envs envs
RUN make .venv/installed && rm -rf /root/.cache
COPY scripts scripts
RUN for version in 2.2.0 2.3.2 2.5.0; do make toolkit VERSION=$version || exit 1; done \
    && rm -rf /root/.cache
COPY . .
# Not the environment: a layer would hold all of it a second time.
RUN touch .venv/installed \
    && find . -mindepth 1 -maxdepth 1 ! -name .venv -exec chmod -R a+rX {} +

# Any user may run it, also one without a home and a name. Snakemake calls `python` in the containers of its jobs.
ENV HOME=/tmp LOGNAME=zipquant PYTHONDONTWRITEBYTECODE=1 PATH=/zipquant/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["make", "--no-print-directory", "-f", "/zipquant/Makefile"]
CMD ["demo"]
