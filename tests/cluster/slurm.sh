#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, below a folder; needs root and Debian's slurm-wlm and munge.
#   tests/cluster/slurm.sh start FOLDER   then: export SLURM_CONF=FOLDER/slurm.conf
#   tests/cluster/slurm.sh stop FOLDER
set -euo pipefail
dir=$(realpath -m "$2")
if [ "$1" = stop ]; then
    for each in slurmd slurmctld munged; do
        if [ -s "$dir/$each.pid" ]; then kill "$(cat "$dir/$each.pid")" 2>/dev/null || :; fi
    done
    exit 0
fi
for each in munged slurmctld slurmd sbatch; do
    command -v $each >/dev/null || { echo "There is no $each: apt install slurm-wlm munge" >&2; exit 2; }
done
mkdir -p "$dir"/{state,spool,log,munge}
chmod 755 "$dir"
chmod 711 "$dir/munge"
head -c 1024 /dev/urandom > "$dir/munge/key"
chmod 400 "$dir/munge/key"
munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
host=$(hostname -s)
cat > "$dir/slurm.conf" <<C
ClusterName=d2ue
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem/ {print $2}')
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
C
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
