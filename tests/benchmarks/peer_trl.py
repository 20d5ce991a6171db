"""TRL's GRPOTrainer on two CPU cores, run by `bench_grpo.py` inside TRL's own environment.

    python peer_trl.py --model DIR --prompts train.jsonl --eval validation.jsonl --groups 32 --group-size 8 \
        --max-tokens 8 --target 0.9 --lr 3e-4 [--generation vllm] [--threads 2] [--processes 1]

One line of JSON per step: seconds of generation and of everything else, tokens, mean reward, CPU seconds of a process;
every few steps the share of held-out prompts answered exactly (greedy); at the end a summary. Evaluation and start-up
are not on the clock.

Prompts are lines of JSON with ``messages`` and ``answer`` (or ``metadata.answer``); the reward is 1 for exactly it.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GENERATIONS = ("generate", "static", "continuous", "vllm")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=0, help="steps")
    parser.add_argument("--steps", type=int, default=200, help="at most")
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--eval-prompts", type=int, default=500)
    parser.add_argument("--loss", default="dapo")
    parser.add_argument("--scale", default="group", help="scale_rewards: group, batch or none")
    parser.add_argument("--generation", choices=GENERATIONS, default="generate")
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--processes", type=int, default=1, help="data-parallel ranks over gloo")
    parser.add_argument("--micro", type=int, default=0, help="rows of a forward pass; 0 is all of a process")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def launch(args: argparse.Namespace) -> int:
    """Start the ranks: by torch's launcher where there are several, else in this process."""
    threads = str(args.threads)
    if args.processes > 1 and "LOCAL_RANK" not in os.environ:
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.processes}"]
        return subprocess.run([*command, *sys.argv], env=environment, check=False).returncode
    if os.environ.get("OMP_NUM_THREADS") != threads:
        # Read when torch is loaded; vLLM wants it in the environment.
        os.environ["OMP_NUM_THREADS"] = threads
    os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", TORCHDYNAMO_DISABLE="1", VLLM_LOGGING_LEVEL="ERROR")
    train(args)
    return 0


def rows(path: str) -> list[dict[str, Any]]:
    """Prompts with their answers."""
    read = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        {"prompt": row["messages"], "answer": str(row["answer"] if "answer" in row else row["metadata"]["answer"])}
        for row in read
    ]


def exact(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """The reward: 1 for the answer and nothing else."""
    return [float(said[0]["content"].strip() == right) for said, right in zip(completions, answer, strict=True)]


def run_vllm_on_cpu() -> None:
    """Make colocated vLLM work beside a CPU trainer, which TRL itself does not support.

    TRL starts the engine without a size for its cache (fails on a busy machine) and loads weights tensor by tensor into
    the model, which the CPU backend has packed by then. Both are put right with what vLLM offers for it.
    """
    from trl.generation import vllm_generation
    from vllm import LLM

    class SmallEngine(LLM):
        def __init__(self, **settings: Any) -> None:
            settings.pop("distributed_executor_backend")
            settings.pop("gpu_memory_utilization")
            super().__init__(**settings, enforce_eager=True, kv_cache_memory_bytes=256 << 20, disable_log_stats=True)

    def sync_weights(self: Any) -> None:
        weights = iter([(name, tensor.detach().clone()) for name, tensor in self._iter_named_params()])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights, "is_checkpoint_format": True})
        self.llm.reset_prefix_cache()

    vllm_generation.LLM = SmallEngine
    vllm_generation.VLLMGeneration.sync_weights = sync_weights


def config(args: argparse.Namespace) -> Any:
    """TRL's settings that are fastest here."""
    from trl import GRPOConfig

    mine = args.groups * args.group_size // args.processes
    micro = args.micro or mine
    return GRPOConfig(
        output_dir=os.devnull + "-unused",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=mine // micro,
        num_generations=args.group_size,
        max_completion_length=args.max_tokens,
        temperature=1.0,
        beta=0.0,
        num_iterations=1,
        loss_type=args.loss,
        scale_rewards=args.scale if args.scale != "none" else False,
        learning_rate=args.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=args.warmup,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_steps=args.steps,
        optim="adamw_torch_fused",
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=args.seed,
        ddp_find_unused_parameters=False,
        cache_implementation="static" if args.generation == "static" else None,
        use_transformers_continuous_batching=args.generation == "continuous",
        # By default it takes half of the machine's memory for its cache.
        transformers_continuous_batching_config={"max_memory_percent": 0.02},
        use_vllm=args.generation == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=256,
        # Its logits come from the same weights in the same precision; the correction would cost a forward pass.
        vllm_importance_sampling_correction=False,
    )


def train(args: argparse.Namespace) -> None:
    """Train until the target is reached and print what it took."""
    import torch

    torch.set_num_threads(args.threads)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    if args.generation == "vllm":
        run_vllm_on_cpu()
    first = os.environ.get("RANK", "0") == "0"
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    held_out = rows(args.eval)[: args.eval_prompts]
    say = functools.partial(print, flush=True) if first else (lambda line: None)
    clock: dict[str, float] = {"generate": 0.0, "tokens": 0.0, "reward": 0.0, "since": 0.0, "total": 0.0, "cpu": 0.0}

    class Timed(GRPOTrainer):
        """Adds up the seconds of generation (weight sync included) and its tokens."""

        def _generate_single_turn(self, *given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            completions, logprobs = super()._generate_single_turn(*given, **named)
            clock["generate"] += time.perf_counter() - began
            clock["tokens"] += sum(len(ids) for ids in completions) * args.processes
            return completions, logprobs

    def reward(completions: list[Any], answer: list[str], **named: Any) -> list[float]:
        found = exact(completions, answer)
        clock["reward"] = sum(found) / len(found)
        return found

    class Steps(TrainerCallback):
        """Prints each step, evaluates off the clock, stops at the target."""

        reached: float | None = None

        def evaluate(self, step: int) -> bool:
            level = accuracy(model, tokenizer, held_out, args.max_tokens)
            say(json.dumps({"step": step, "seconds": round(clock["total"], 3), "accuracy": level}))
            return level >= args.target

        def on_train_begin(self, *given: Any, **named: Any) -> None:
            self.evaluate(0)
            clock.update(since=time.perf_counter(), cpu=time.process_time())

        def on_step_end(self, given: Any, state: Any, control: Any, **named: Any) -> None:
            took = time.perf_counter() - clock["since"]
            clock["total"] += took
            line = {
                "step": state.global_step,
                "seconds": took,
                "generate": clock["generate"],
                "train": took - clock["generate"],
                "tokens": int(clock["tokens"]),
                "reward": clock["reward"],
                "cpu": time.process_time() - clock["cpu"],
            }
            say(json.dumps({name: round(value, 4) for name, value in line.items()}))
            if state.global_step % args.eval_every == 0 and self.evaluate(state.global_step):
                self.reached = clock["total"]
                control.should_training_stop = True
            clock.update(generate=0.0, tokens=0.0, since=time.perf_counter(), cpu=time.process_time())

    steps = Steps()
    trainer = Timed(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        args=config(args),
        train_dataset=Dataset.from_list(rows(args.prompts)),
        callbacks=[steps],
    )
    trainer.train()
    say(json.dumps({"done": True, "steps": trainer.state.global_step, "seconds": clock["total"],
                    "reached": steps.reached}))  # fmt: skip


def accuracy(model: Any, tokenizer: Any, held_out: list[dict[str, Any]], max_tokens: int) -> float:
    """Share of prompts whose greedy response is the answer."""
    import torch

    prompts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False) for row in held_out
    ]
    right = 0
    training = model.training
    model.eval()
    for start in range(0, len(prompts), 250):
        given = tokenizer(prompts[start : start + 250], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            made = model.generate(**given, max_new_tokens=max_tokens, do_sample=False)
        said = tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [row["answer"] for row in held_out[start : start + 250]]
        right += sum(text.strip() == answer for text, answer in zip(said, answers, strict=True))
    model.train(training)
    return right / len(prompts)


if __name__ == "__main__":
    sys.exit(launch(arguments()))
