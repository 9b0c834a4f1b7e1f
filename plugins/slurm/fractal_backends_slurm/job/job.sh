fb_umask=$(umask)
umask 077
fb_first=$((fb_index * fb_units_each + 1))
fb_last=$((fb_first + fb_units_each - 1))
fb_awk=awk fb_known=
if command -v mawk >/dev/null; then fb_awk=mawk fb_known=1; fi # the quickest
echo "begun $fb_host $fb_begun
job $fb_host $fb_limit" >>"$fb_receipt" || exit 1

# Run the units of lines $1 to $2, and note how they ended. $3: what names the file with the number of a unit's group.
# More arguments: what starts awk.
fb_run() {
    fb_from=$1 fb_to=$2 fb_start=$3 fb_left=
    fb_program="fb_array_task=$fb_array_task fb_host=$fb_host fb_umask=$fb_umask fb_start=$fb_start
$fb_unit"
    shift 3
    fb_ended=$("$@" "$fb_awk" "$fb_units" "$fb_program" "$fb_folder/units" "$fb_from" "$fb_to" "$fb_known" "$fb_receipt" "$fb_host")
    fb_exit=$?
    case $fb_ended in
    *"fb_ended "*) fb_ended=${fb_ended##*"fb_ended "} ;; # a prolog of the site may say something before it
    *) fb_ended= ;;
    esac
    fb_before=${fb_ended%% *} fb_ended=${fb_ended#* }
    fb_note
}

fb_lane() { # steps run side by side in several lanes; the lane that makes a unit's folder runs it
    fb_line=0
    while read -r fb_label; do
        fb_line=$((fb_line + 1))
        if [ "$fb_line" -lt "$fb_first" ]; then continue; fi
        if [ "$fb_line" -gt "$fb_last" ]; then break; fi
        { mkdir "$fb_folder/$fb_label.step"; } 2>/dev/null || continue
        fb_run "$fb_line" "$fb_line" "$$.$fb_label" \
            srun --export=ALL --exact $fb_of_steps --nodes=1 --ntasks=1 --cpus-per-task="$fb_cpus" $fb_memory --input=none \
            --immediate=60 2>"$fb_folder/$fb_label.step/out"
        read -r fb_now fb_rest </proc/uptime
        echo "step $fb_label $fb_exit $fb_now" >>"$fb_receipt"
        # A controller that was started again may take steps for running, for ever, that have ended since.
        if grep -qs "error: Unable to create step .* nodes are busy" "$fb_folder/$fb_label.step/out"; then return 1; fi
    done <"$fb_folder/units"
}

if [ "$fb_at_once" -gt 1 ]; then
    fb_note_booted >>"$fb_receipt"
    # Which job and which cluster srun goes to, whatever worker_init made of that.
    if [ "${SLURM_JOB_ID:-}" != "$fb_job" ]; then export SLURM_JOB_ID="$fb_job"; fi
    if [ -n "$fb_conf" ] && [ "${SLURM_CONF:-}" != "$fb_conf" ]; then export SLURM_CONF="$fb_conf"; fi
    if [ -n "$fb_memory" ]; then
        fb_memory=--mem=$fb_memory
    elif [ "$fb_node_memory" -gt 0 ]; then
        fb_memory=--mem=$((fb_node_memory / fb_at_once))
    elif [ -n "$fb_core_memory" ]; then
        fb_memory=--mem-per-cpu=$fb_core_memory
    fi
    fb_lanes=
    while [ "$fb_at_once" -gt 0 ]; do
        fb_lane &
        fb_lanes="$fb_lanes $!"
        fb_at_once=$((fb_at_once - 1))
    done
    wait $fb_lanes
    fb_exit=$?
else
    trap : INT # of which a shell dies when its unit has ended, before it can note that
    fb_run "$fb_first" "$fb_last" "$$" </dev/null
fi

# Go on to the parent of process $fb_ancestor.
fb_up() {
    read -r fb_rest <"/proc/$fb_ancestor/stat" || return 1
    fb_rest=${fb_rest##*) ? }
    fb_ancestor=${fb_rest%% *}
} 2>/dev/null

# Whether a process that is newer than this shell was given to one of its ancestors, because its parent has ended.
fb_may_be_left() {
    read -r fb_now fb_rest </proc/uptime
    read -r fb_rest fb_rest fb_rest fb_rest fb_newest </proc/loadavg
    # Numbers of processes begin again some time: then nothing can be told from them.
    if [ $((${fb_now%.*} - ${fb_begun%.*})) -gt 60 ] || [ "$fb_newest" -lt "$$" ]; then return 0; fi
    fb_ancestor=$PPID
    while [ -r "/proc/$fb_ancestor/task/$fb_ancestor/children" ]; do
        fb_children=
        read -r fb_children <"/proc/$fb_ancestor/task/$fb_ancestor/children"
        for fb_pid in $fb_children; do
            if [ "$fb_pid" -le "$$" ]; then continue; fi
            read -r fb_name <"/proc/$fb_pid/comm" || return 0
            if [ "$fb_name" != slurmstepd ]; then return 0; fi # of another job
        done
        if [ "$fb_ancestor" -eq 1 ]; then return 1; fi
        fb_up || return 0
    done 2>/dev/null
    return 0
}

# Whether process $1, which has the mark, is of this job and not of one that a unit submitted: by the number, or where that
# is hidden, by what it descends from. What is left of a unit was given to an ancestor of this shell.
fb_is_of_job() {
    fb_ancestor=$1
    while grep -qsz "^FRACTAL_MARK=$FRACTAL_MARK\$" "/proc/$fb_ancestor/environ"; do
        if grep -qsz "^SLURM_JOB_ID=" "/proc/$fb_ancestor/environ"; then
            grep -qsz "^SLURM_JOB_ID=$fb_job\$" "/proc/$fb_ancestor/environ"
            return
        fi
        fb_up || return 1
    done
    case $fb_above in *" $fb_ancestor "*) return 0 ;; esac
    return 1
}

# End what the units left behind: all in the job's control group, or where there is none, what has the mark of this start and
# the number of the job in its environment. The number alone would not do: other clusters have the same ones, and a
# controller that forgot jobs uses theirs again. Nor would the mark: a job that a unit submits inherits it.
fb_group=
while IFS=: read -r fb_number fb_kind fb_path; do
    case $fb_kind:$fb_path in
    freezer:*/job_*) fb_group=/sys/fs/cgroup/freezer$fb_path ;;
    :*/job_*) fb_group=/sys/fs/cgroup$fb_path ;;
    esac
done </proc/self/cgroup
if [ -r "$fb_group/cgroup.procs" ]; then
    while read -r fb_pid; do
        if [ "$fb_pid" != "$$" ]; then kill -s KILL "$fb_pid"; fi
    done <"$fb_group/cgroup.procs" 2>/dev/null
elif fb_may_be_left; then
    fb_above=" $$ " fb_ancestor=$$
    while [ "$fb_ancestor" -gt 1 ] && fb_up; do fb_above="$fb_above$fb_ancestor "; done
    for fb_environment in $(grep -lsz "^FRACTAL_MARK=$FRACTAL_MARK\$" /proc/[0-9]*/environ); do
        fb_pid=${fb_environment%/environ}
        fb_pid=${fb_pid#/proc/}
        if [ "$fb_pid" != "$$" ] && fb_is_of_job "$fb_pid"; then kill -s KILL "$fb_pid" 2>/dev/null; fi
    done
fi
echo "over $fb_host" >>"$fb_receipt"
exit $fb_exit
