"""The `levl-pretrain` command: train, export, import. torch is imported only once the words make sense."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

HELP = """usage: levl-pretrain [config.yaml] key=value ...
       levl-pretrain export CKPT --to release|official|safetensors --out PATH
       levl-pretrain import DIR|REPO --out ckpt.pt [--tokenizer gpt2|DIR]
       levl-pretrain release RUN --out DIR --licence NAME [--results DIR ...]     a folder for a hub: weights, config.json, model card
       levl-pretrain fields [key=value ...]

Train a backbone; writes OUT/ckpt.pt, OUT/metrics.jsonl, OUT/config.yaml.

  objective=levljepa|levljepa_plus|clip|siglip     model=nano|tiny|small|base
  data=scenes | csv:FILE or tsv:FILE (header image,caption) | wds:GLOB (tars of image + txt or json; {0000..0099} expands)
       | lance:PATH (columns image, text) | hf:NAME[:SPLIT] (hub name, or directory of save_to_disk; streaming=true)
  out=DIR  steps=N  batch_size=N (images an update, over all processes)  seed=N
  preset=levljepa-may|levljepa-july|clip-openclip|siglip      a whole published configuration; what is given besides it wins
  The same command again resumes where it was stopped; extend_to=STEPS trains a finished run on; resume=false insists on an empty folder.

Examples:
  levl-pretrain out=runs/first                                        LeVLJEPA at nano on generated scenes, on a laptop's CPU
  levl-pretrain preset=levljepa-july data='wds:cc12m/{0000..1099}.tar' out=runs/july probe=imagenette attentive_every=1
  levl-pretrain preset=clip-openclip data=lance:cc12m/train.lance out=runs/clip trackers='[wandb]'
  levl-pretrain out=runs/first extend_to=4000                         the finished first run, trained on
  levl-pretrain fields preset=levljepa-may > may.yaml;  levl-pretrain may.yaml batch_size=512 out=runs/may
  levl-eval run --backbone runs/first/ckpt.pt --tasks linear,zeroshot --data scenes --out results

Several processes, on one machine or many:
  torchrun --nproc-per-node 8 --no-python levl-pretrain config.yaml key=value ...
  accelerate launch --no_python levl-pretrain config.yaml key=value ...      (its own configuration chooses DDP or FSDP)
  levl-pretrain --launcher slurm --slurm nodes=2,gpus=8,partition=gpu,time=24:00:00 config.yaml key=value ...\
      (torchrun on each node; --detach)
  (torchrun and accelerate take a Python file by default, hence the flag; -m levl_eval.pretrain.cli in its place does the same)

Every field with its value, choices, meaning and source, as a config.yaml: levl-pretrain fields [model=tiny] [preset=...] > config.yaml
"""


def _train(words: list[str]) -> int:
    from levl_eval.models.config import parse_config

    config = parse_config(words)
    from levl_eval.pretrain.interrupts import alone_in
    from levl_eval.pretrain.loop import Trainer
    from levl_eval.pretrain.messages import made

    with alone_in(Path(config.out)):
        try:
            trainer = Trainer(config)
            trainer.run()
        except KeyboardInterrupt as e:
            if config.resume:
                raise
            raise type(e)("run the same command without resume=false to resume from here") from None
        if trainer.group.main:
            print(made(trainer.ckpt, trainer.step))
        trainer.close()
    return 0


def _export(words: list[str]) -> int:
    from levl_eval.core.command import Parser

    parser = Parser(prog="levl-pretrain export")
    parser.add_argument("ckpt")
    parser.add_argument("--to", required=True, choices=["release", "official", "safetensors"])
    parser.add_argument("--out", required=True)
    args = parser.parse(words)
    from levl_eval.models.checkpoints import export

    for path in export(Path(args.ckpt), args.to, Path(args.out)):
        print(path)
    return 0


def _import(words: list[str]) -> int:
    from levl_eval.core.command import Parser

    parser = Parser(prog="levl-pretrain import")
    parser.add_argument("source")
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokenizer")
    args = parser.parse(words)
    from levl_eval.pretrain.interchange import import_published

    print(import_published(args.source, Path(args.out), args.tokenizer))
    return 0


def _release(words: list[str]) -> int:
    from levl_eval.core.command import Parser

    parser = Parser(prog="levl-pretrain release")
    parser.add_argument("run", help="a run's folder, or a ckpt.pt")
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--results", nargs="*", default=[], metavar="DIR", help="run directories of levl-eval, for the card's table"
    )
    parser.add_argument("--licence", "--license", required=True, help="as hubs name it, for example apache-2.0 or cc-by-nc-4.0")
    parser.add_argument("--name")
    args = parser.parse_args(words)
    from levl_eval.pretrain.release import release

    for path in release(Path(args.run), Path(args.out), [Path(r) for r in args.results], args.licence, args.name):
        print(path)
    return 0


def dispatch(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; returns the exit code. Errors pass: the entry point's guard tells them."""
    words = [w for w in words if w != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if words[0] == "fields":
        from levl_eval.models.config import explained

        print(explained(words[1:]), end="")
        return 0
    commands = {"export": _export, "import": _import, "release": _release}
    return commands[words[0]](words[1:]) if words[0] in commands else _train(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m levl_eval.pretrain.cli``, as launchers call it; returns the exit code."""
    from levl_eval.core.command import guard

    words = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: dispatch(words), "--debug" in words, "levl-pretrain", argv is None)


if __name__ == "__main__":
    sys.exit(main())
