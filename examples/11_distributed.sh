#!/usr/bin/env bash
# Trains the text classifier of 01 in several processes, one for each GPU. All arguments are those of 01.
#
#     PROCESSES=2 bash examples/11_distributed.sh --model FacebookAI/roberta-base --dataset nyu-mll/glue \
#         --dataset_config mrpc --output_dir runs/mrpc --num_train_epochs 3 --per_device_train_batch_size 16
#
# Losses are averaged over the processes and the main one decides, so all train the same candidate. A killed run goes
# on with as many processes. On CPUs add `--use_cpu`. `accelerate launch` takes the place of `torchrun` where Accelerate
# is configured, and brings FSDP2 with it:
#
#     accelerate launch --num_processes 2 --use_fsdp --fsdp_version 2 examples/01_text_classification_lora.py ...
set -euo pipefail

torchrun --standalone --nproc_per_node "${PROCESSES:-2}" "$(dirname "$0")/01_text_classification_lora.py" "$@"
