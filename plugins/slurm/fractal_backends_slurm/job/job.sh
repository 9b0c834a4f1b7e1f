fb_umask=$(umask)
umask 077
fb_receipt=$fb_folder/${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.receipt
fb_first=$((SLURM_ARRAY_TASK_ID * fb_units_each + 1))
fb_last=$((fb_first + fb_units_each - 1))
fb_unit="fb_umask=$fb_umask
$fb_unit"
read -r fb_now fb_rest </proc/uptime
echo "job $(date +%s) $fb_now ${SLURMD_NODENAME:-?} ${SLURM_RESTART_COUNT:-0}" >>"$fb_receipt" || exit 1

fb_lane() { # steps run side by side in several lanes; the lane that makes a unit's folder runs it
    fb_line=0
    while read -r fb_label; do
        fb_line=$((fb_line + 1))
        if [ "$fb_line" -lt "$fb_first" ]; then continue; fi
        if [ "$fb_line" -gt "$fb_last" ]; then break; fi
        { mkdir "$fb_folder/$fb_label.step"; } 2>/dev/null || continue
        srun --exact --nodes=1 --ntasks=1 --cpus-per-task="$fb_cpus" $fb_memory --input=none \
            awk "$fb_units" "$fb_unit" "$fb_folder/units" "$fb_line" "$fb_line" >"$fb_folder/$fb_label.step/out" 2>&1
        echo "step $fb_label $?" >>"$fb_receipt"
    done <"$fb_folder/units"
}

if [ "$fb_at_once" -gt 1 ]; then
    if [ -n "$fb_memory" ]; then
        fb_memory=--mem=$fb_memory
    elif [ -n "${SLURM_MEM_PER_NODE:-}" ] && [ "$SLURM_MEM_PER_NODE" -gt 0 ]; then
        fb_memory=--mem=$((SLURM_MEM_PER_NODE / fb_at_once))
    elif [ -n "${SLURM_MEM_PER_CPU:-}" ]; then
        fb_memory=--mem-per-cpu=$SLURM_MEM_PER_CPU
    fi
    fb_lanes=
    while [ "$fb_at_once" -gt 0 ]; do
        fb_lane &
        fb_lanes="$fb_lanes $!"
        fb_at_once=$((fb_at_once - 1))
    done
    wait $fb_lanes
else
    awk "$fb_units" "$fb_unit" "$fb_folder/units" "$fb_first" "$fb_last" </dev/null
fi
fb_exit=$?

# End what the units left behind: the job's control group where there is one, else what has the job's number in its environment.
fb_group=$(sed -n 's|^[0-9]*:freezer:\(.*/job_.*\)|/sys/fs/cgroup/freezer\1|p; s|^0::\(.*/job_.*\)|/sys/fs/cgroup\1|p' /proc/self/cgroup)
if [ -n "$fb_group" ] && [ -r "$fb_group/cgroup.procs" ]; then
    fb_left=$(cat "$fb_group/cgroup.procs")
else
    fb_left=$(grep -lsz "^SLURM_JOB_ID=$SLURM_JOB_ID\$" /proc/[0-9]*/environ | tr -cd '0-9\n')
fi
for fb_pid in $fb_left; do
    if [ "$fb_pid" != "$$" ] && [ "$fb_pid" != "$PPID" ]; then kill -s KILL "$fb_pid" 2>/dev/null; fi
done
read -r fb_now fb_rest </proc/uptime
echo "over $fb_now" >>"$fb_receipt"
exit $fb_exit
