#!/usr/bin/env bash
# A Slurm of its own on this machine, without systemd and without touching /etc: `start.sh DIR` starts it, `start.sh DIR stop` ends it.
# Everything (keys, sockets, state, logs, process ids) lies below DIR; users of it set SLURM_CONF=DIR/slurm.conf.
# Needs root (slurmd starts jobs as their users) and Debian's packages slurm-wlm and munge. Two nodes, `one` and `two`, are this machine
# twice, as far as Slurm is built for several slurmd on a machine; CPUs are stated as 8 each, so that an array fits two real cores.
set -euo pipefail
dir=$1
conf=$dir/slurm.conf
host=$(hostname -s)
export SLURM_CONF=$conf

stop() {
  for name in slurmd-one slurmd-two slurmctld munged; do
    if [ -s "$dir/$name.pid" ]; then
      pid=$(cat "$dir/$name.pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
    fi
  done
}

if [ "${2:-}" = stop ]; then
  stop
  exit 0
fi

mkdir -p "$dir"/{state,spool-one,spool-two,munge}
chmod 700 "$dir/munge"
head -c 1024 /dev/urandom >"$dir/munge/key"
chmod 400 "$dir/munge/key"

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cat >"$conf" <<CONF
ClusterName=levl
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdSpoolDir=$dir/spool-%n
StateSaveLocation=$dir/state
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=2,bf_interval=2
SchedulerType=sched/backfill
KillWait=5
MinJobAge=60
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=$(port) CPUs=8 RealMemory=4000
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=$(port) CPUs=8 RealMemory=4000
PartitionName=main Nodes=one,two Default=YES MaxTime=60 State=UP OverSubscribe=YES:16
CONF

trap 'stop; tail -n 20 "$dir"/*.log >&2' ERR
munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge/seed" 2>/dev/null
slurmctld -i -f "$conf"
for node in one two; do slurmd -N $node -f "$conf"; done
for _ in $(seq 100); do
  [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = 2 ] && exit 0
  sleep 0.2
done
echo "slurm: no two idle nodes within 20 seconds" >&2
false
