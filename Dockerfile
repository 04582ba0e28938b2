# docker build -t lora-module-lab .
# docker run --gpus all -p 7860:7860 --stop-timeout 120 -e LAB_PASSWORD -v lab-runs:/app/runs \
#   -v "$PWD/models":/app/models:ro lora-module-lab
# With LAB_PASSWORD set in your shell; without it the container ends at once and says so. Then open http://localhost:7860.
# To reach it by another name or address, add `--allow-host NAME` to the end of the command.
# `docker stop` stops running trainings after their step, with a checkpoint. --stop-timeout: seconds for that, 10 if left
# out; a training whose step takes longer is killed and resumes from its last checkpoint.
# The host needs NVIDIA's driver 580 or newer (CUDA 13) and the NVIDIA Container Toolkit.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

# gcc and python3-dev: Triton builds GPU kernels with them; tini: process 1, which passes signals on and reaps processes
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv gcc python3-dev tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 lab
WORKDIR /app
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=7860
# a container ends all of its processes with the app, so the app stops the trainings first
ENV LAB_STOP_RUNS=1
COPY requirements-cuda.txt .
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements-cuda.txt
COPY app.py LICENSE README.md ./
COPY trainer trainer
COPY ui ui
RUN mkdir -p runs models && chown lab:lab runs models
USER lab
VOLUME /app/runs
EXPOSE 7860
# robots.txt is served without the password
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD python -c "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/robots.txt', timeout=4)"
ENTRYPOINT ["tini", "--", "python", "app.py", "--host", "0.0.0.0"]
